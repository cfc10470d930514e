# SPDX-License-Identifier: GPL-2.0
# Sourced after lib.sh by the queue tools: where the patches and the tree are,
# what they were when they last agreed, and how patches become commits.

# The tests put a tree and patches of their own here.
TREE=${QUEUE_TREE:-$BUILD/linux}
PATCHES=${QUEUE_PATCHES:-$TOP/patches}
QUEUES=(mm x86 fixes prep mmap selftests followup)
# The queues that a queue needs; the others apply to the base alone.
declare -A NEEDS=([prep]="fixes" [mmap]="fixes prep" [selftests]="fixes prep mmap"
	[followup]="mm x86 fixes prep mmap selftests")
COVER=0000-cover-letter.patch
STATE=$TREE/.git/queue-state

# Another repository's variables, when called from a git hook.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES

# Commits that tools/queue/tree makes depend on the patches and the base alone.
export GIT_COMMITTER_NAME=queue GIT_COMMITTER_EMAIL=queue@localhost

SCRATCH=
queue_cleanup() { [ -z "$SCRATCH" ] || rm -rf "$SCRATCH"; }
trap queue_cleanup EXIT

# Only one run works on $TREE at a time.  Remove what a killed run left.
queue_begin()
{
	[ -z "${OWN_TREE-}" ] || die "TREE=$OWN_TREE is set, and this is for patches/: 'make TREE=' goes back to them"
	mkdir -p "$(dirname "$TREE")" "$LOGS"
	exec 8>"$TREE.lock"
	flock -n 8 || { msg "waiting for another run that uses $TREE"; flock 8; }
	rm -rf "$TREE".tmp.*
	SCRATCH=$(mktemp -d "$TREE.tmp.XXXXXX")
}

tree_git() { git -C "$TREE" "$@"; }

# short PATH: the path relative to the clone
short() { printf '%s\n' "${1#"$TOP"/}"; }

# The state file: the base, the HEAD and the patches that belong together.
state() { sed -n "s/^$1 //p" "$STATE" 2>/dev/null || true; }

write_state()
{
	printf 'base %s\nhead %s\npatches %s\n' "$1" "$2" "$3" > "$STATE.new"
	mv "$STATE.new" "$STATE"
}

# patches_id DIR: changes with any patch's name or content.
patches_id()
{
	(
		cd "$1"
		for q in "${QUEUES[@]}"; do
			[ ! -d "$q" ] || find "$q" -name '*.patch' -print0
		done | sort -z | xargs -0r sha256sum
	) | sha256sum | cut -d ' ' -f 1
}

# queue_patches DIR QUEUE: the patches in order, without the cover letter.
queue_patches()
{
	[ ! -d "$1/$2" ] || find "$1/$2" -name '*.patch' ! -name "$COVER" | sort
}

# A queue begins with an empty commit, its border: the message is the cover letter, and
# ends with "Queue: NAME".  Without a text it has a subject only, and there is no letter.

# queues REPO [COMMIT]: for each queue its name, its border and its last commit
queues()
{
	git -C "$1" log --reverse --topo-order --format='%H %(trailers:key=Queue,valueonly,separator=%x2C)' \
		"base..${2:-HEAD}" | awk '
	NF > 1 { if (name) print name, border, last; name = $2; border = $1 }
	{ last = $1 }
	END { if (name) print name, border, last }'
}

# queue_end REPO QUEUE: its last commit
queue_end() { queues "$1" | awk -v queue="$2" '$1 == queue { print $3 }'; }

# letter REPO BORDER: the cover letter; nothing if there is none
letter()
{
	local text

	text=$(git -C "$1" log -1 --format=%B "$2" | sed '/^Queue: [a-z0-9]*$/d' | git stripspace)
	[[ $text != *$'\n'* ]] || printf '%s\n' "$text"
}

# The cover letter's own words: subject, empty line, text.  The shortlog and
# the diffstat, which follow, are made anew by every export.
cover_text()
{
	awk '
	!body && /^$/ { body = 1; next }
	!body && /^Subject: / { subject = $0; folded = 1; next }
	!body && folded && /^ / { subject = subject $0; next }
	!body { folded = 0; next }
	{ line[++n] = $0 }
	END {
		sub(/^Subject: \[[^]]*\] */, "", subject)
		print subject
		for (i = 1; i <= n && !generated(i); i++)
			;
		for (i--; i > 0 && line[i] == ""; i--)
			;
		if (i)
			print ""
		for (j = 1; j <= i; j++)
			print line[j]
	}
	# Does the shortlog begin at line i?  Then nothing else may follow.
	function generated(i,    j)
	{
		if (line[i] !~ /^[^ ].* \([0-9]+\):$/ || line[i + 1] !~ /^  [^ ]/)
			return 0
		for (j = i; j <= n; j++)
			if (line[j] !~ /^$|^  |^[^ ].* \([0-9]+\):$|^ .* \| |^ [0-9]+ files? changed|^ (create|delete|rename|copy|mode|rewrite) /)
				return 0
		return 1
	}' "$1"
}

# make_repo DIR: an empty repository with no configuration, hooks or template
# of anybody's.
make_repo()
{
	git init -q --template= -b queue "$1"
	mkdir -p "$1/.git/info" "$1/.git/objects/info"
}

# borrow DIR OBJECTS: let the repository DIR read from an object store.
borrow()
{
	local list=$1/.git/objects/info/alternates dir

	if [ -f "$list" ]; then
		# git complains at every call about a store that is gone.
		while read -r dir; do
			[ ! -d "$dir" ] || printf '%s\n' "$dir"
		done < "$list" > "$list.new"
		if cmp -s "$list" "$list.new"; then
			rm "$list.new"
		else
			mv "$list.new" "$list"
		fi
	fi
	grep -qxFe "$2" "$list" 2>/dev/null || printf '%s\n' "$2" >> "$list"
}

# check_names DIR QUEUE: fail unless the numbers in the name and the subject of each file are
# its position.  git am would not notice.
check_names()
{
	local files file total place n=0

	mapfile -t files < <(queue_patches "$1" "$2")
	total=${#files[@]}
	for file in ${files[@]+"${files[@]}"}; do
		n=$((n + 1))
		[[ ${file##*/} == "$(printf %04d $n)"-* ]] ||
			die "$(short "$file") is not where its number says: number $n of $2 was expected"
		if grep -q $'\r' "$file"; then
			die "$(short "$file") has carriage returns: a mail program has damaged it"
		fi
		place="[PATCH $(printf '%0*d' ${#total} $n)/$total]"
		[[ $(grep -m 1 '^Subject: ' "$file") == "Subject: $place "* ]] ||
			die "$(short "$file") does not have $place in its subject: patches are missing or reordered"
	done
}

# border DIR REPO QUEUE: commit what the queue begins with.  It is as old as the letter,
# or as the first patch, and from its author.
border()
{
	local mail=$1/$3/$COVER message=$SCRATCH/border commit
	local -A from=()

	if [ -f "$mail" ]; then
		cover_text "$mail" > "$message"
	else
		mail=$(queue_patches "$1" "$3" | head -n 1)
		echo "$3" > "$message"
	fi
	printf '\nQueue: %s\n' "$3" >> "$message"
	while IFS=' ' read -r key value; do
		from[$key]=$value
	done < <(git mailinfo /dev/null /dev/null < "$mail" | grep .)
	commit=$(GIT_AUTHOR_NAME=${from[Author:]-} GIT_AUTHOR_EMAIL=${from[Email:]-} GIT_AUTHOR_DATE=${from[Date:]-} \
		GIT_COMMITTER_DATE=${from[Date:]-} git -C "$2" commit-tree -p HEAD -F "$message" 'HEAD^{tree}') ||
		die "$(short "$mail") cannot be made a commit"
	git -C "$2" update-ref HEAD "$commit"
}

# touched FILE...: the files that these patches touch
touched() { sed -nE 's,^(---|\+\+\+) [ab]/,,p' "$@" | sort -u; }

# why_not PATCH LOG: set NAME, a file to which PATCH does not apply according to git's LOG,
# BLOB, what it was when the patch was made, and WHY.
why_not()
{
	WHY=$(sed -nE 's/^(error|fatal): //p' "$2" | head -n 1)
	NAME=${WHY%%: *} BLOB=
	WHY=${WHY:-git finds no diff in it}
	if [[ $WHY =~ ^patch\ failed:\ (.*):([0-9]+)$ ]]; then
		NAME=${BASH_REMATCH[1]}
		read -r BLOB WHY < <(awk -v name="$NAME" -v line="${BASH_REMATCH[2]}" '
			/^diff --git / { found = substr($0, length($0) - length(name) - 2) == " b/" name }
			found && /^index / { split($2, blob, "[.]") }
			found && /^@@ / && $2 ~ "^-" line "(,|$)" { print blob[1], $0; exit }' "$1") || WHY="line ${BASH_REMATCH[2]}"
		WHY="hunk '$WHY' of $NAME"
	fi
}

# does_not_apply DIR REPO PATCH: die, and say in which hunk.  Write to the log how the file
# differs from the one that PATCH was made from, and try the rest of DIR with 3-way merges
# in REPO, which is a scratch repository.  The blobs are those of DIR on the default base.
does_not_apply()
{
	local default log=$SCRATCH/git-am.log rest before=() verdict

	default=$(source_place linux)
	why_not "$3" "$log"
	mapfile -t rest < <(for queue in "${QUEUES[@]}"; do queue_patches "$1" "$queue"; done)
	while [ "${rest[0]}" != "$3" ]; do
		before+=("${rest[0]}")
		rest=("${rest[@]:1}")
	done
	if [ -d "$default" ]; then
		(
			unset GIT_OBJECT_DIRECTORY
			make_repo "$SCRATCH/default"
			borrow "$SCRATCH/default" "$default/objects"
			git -C "$SCRATCH/default" update-ref HEAD "$(git -C "$default" rev-parse HEAD)"
			git -C "$SCRATCH/default" read-tree HEAD
			git -C "$SCRATCH/default" am --no-3way --keep-cr "${before[@]}" < /dev/null
		) > "$LOGS/default-am.log" 2>&1 || true
		export GIT_ALTERNATE_OBJECT_DIRECTORIES=$SCRATCH/default/.git/objects:$default/objects
	fi
	verdict="'git am -3' applies it and the patches after it"
	{
		git -C "$2" am --quit
		printf '\n== %s, from what the patch was made for (%s) to what is there:\n' "$NAME" "${BLOB:-no blob}"
		git -C "$2" --no-pager diff "$BLOB" "HEAD:$NAME" || echo "(one of them is not known)"
		printf '\n== git am -3:\n'
		if ! git -C "$2" am -3 --keep-cr "${rest[@]}" < /dev/null; then
			git -C "$2" --no-pager diff --diff-filter=U
			verdict=$(cat "$2/.git/rebase-apply/next" 2> /dev/null || echo 1)
			verdict="'git am -3' stops at $(short "${rest[verdict - 1]}")"
		fi
	} >> "$log" 2>&1
	mv "$log" "$LOGS/git-am.log"
	die "$(short "$3") does not apply: $WHY; $verdict" "$LOGS/git-am.log"
}

# apply_queue DIR REPO QUEUE: turn its patches into commits.  Strict: context must match.
# Only files that the patches touch are checked out.
apply_queue()
{
	local files next

	mapfile -t files < <(queue_patches "$1" "$3")
	if ! git -C "$2" am --no-3way --keep-cr --committer-date-is-author-date \
		"${files[@]}" > "$SCRATCH/git-am.log" 2>&1 < /dev/null; then
		next=$(cat "$2/.git/rebase-apply/next" 2>/dev/null || echo 1)
		does_not_apply "$1" "$2" "${files[next - 1]}"
	fi
}

# apply DIR REPO: turn the queues in DIR, with their borders, into commits in REPO, which
# has the base at HEAD.
apply()
{
	local queue

	git -C "$2" read-tree HEAD
	for queue in "${QUEUES[@]}"; do
		check_names "$1" "$queue"
		[ -n "$(queue_patches "$1" "$queue")" ] || continue
		border "$1" "$2" "$queue"
		apply_queue "$1" "$2" "$queue"
	done
}

# stack DIR REPO QUEUE: make REPO, with commits for QUEUE and the queues that it needs, on
# the base of $TREE and without borders.  Prints the range of QUEUE, nothing if it is empty.
stack()
{
	local queue start

	make_repo "$2"
	borrow "$2" "$TREE/.git/objects"
	[ ! -f "$TREE/.git/shallow" ] || cp "$TREE/.git/shallow" "$2/.git/"
	tree_git show base:.gitattributes > "$2/.git/info/attributes" 2> /dev/null || true
	git -C "$2" update-ref refs/tags/base "$(tree_git rev-parse 'base^{commit}')"
	git -C "$2" update-ref HEAD base
	git -C "$2" read-tree HEAD
	for queue in ${NEEDS[$3]-} "$3"; do
		check_names "$1" "$queue"
		start=$(git -C "$2" rev-parse HEAD)
		[ -z "$(queue_patches "$1" "$queue")" ] || apply_queue "$1" "$2" "$queue"
	done
	[ "$start" = "$(git -C "$2" rev-parse HEAD)" ] || echo "$start..$(git -C "$2" rev-parse HEAD)"
}

# patches_at REV DIR: write patches/ of that revision of this repository to DIR/patches.
patches_at()
{
	mkdir -p "$2"
	git -C "$TOP" archive "$1" patches 2> "$LOGS/archive.log" | tar -x -C "$2" 2>> "$LOGS/archive.log" ||
		die "FROM=$1 is no revision of this repository that has patches/" "$LOGS/archive.log"
}

# Fail if git is in the middle of an operation.
no_operation()
{
	local d

	for d in rebase-merge rebase-apply MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD BISECT_LOG; do
		[ ! -e "$TREE/.git/$d" ] ||
			die "$(short "$TREE") is in the middle of a rebase, am, merge or bisect: finish or abort it first"
	done
}

no_changes()
{
	[ -z "$(tree_git status --porcelain -uno)" ] ||
		die "$(short "$TREE") has uncommitted changes: commit and export them, or drop them with git"
}
