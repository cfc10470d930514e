# SPDX-License-Identifier: GPL-2.0
# Sourced by tools/checks/patches and the checks of a patch: the results of checks.
#
# A check is NAME or NAME-ARGUMENT: it runs tools/checks/patch/NAME COMMIT [ARGUMENT], which
# explains on stdout or stderr why it fails, and exits with 0, with 4 if it has nothing to
# check, or with another status if the patch is bad.  Its header declares what the result
# depends on, except the commit and the program itself:
#
#	# Inputs: FILE...	files, directories, and patterns; what these declare counts, too
#	# Input from: COMMAND	the output of a command, which can use $ARGUMENT
#	# Reads: message	the message of the commit
#
# A result lasts until one of these changes.  A failure is only kept for the current run.
#
# Inputs: tools/checks/commits.sh

. "${BASH_SOURCE[0]%/*}/commits.sh"

CHECKED=$BUILD/checks
STORE=$CHECKED/results
mkdir -p "$STORE"
# What the programs of one run share: its start, and the keys
export CHECK_RUN=${CHECK_RUN:-$T}
[ "$CHECK_RUN" != "$T" ] || touch "$T/started"

program_of() { echo "tools/checks/patch/${1%%-*}"; }

# inputs FILE...: print the files, and what they declare.
declare -A SEEN=()
inputs()
{
	local file declared

	for file; do
		[ -z "${SEEN[$file]-}" ] || continue
		SEEN[$file]=yes
		echo "$file"
		declared=$(sed -n 's/^# Inputs: //p' "$file") || return
		[ -z "$declared" ] || declared=$(find $declared -type f 2>&1) || die "$file: ${declared##*find: }"
		inputs $declared || return
	done
}

# key CHECK: a hash of what its results depend on, except the commit
key()
{
	local kept=$CHECK_RUN/key-$1 ARGUMENT=${1#*-} files command new

	if [ ! -s "$kept" ]; then
		[ -x "$TOP/$(program_of "$1")" ] || die "there is no check '$1'"
		files=$(cd "$TOP" && SEEN=() && inputs "$(program_of "$1")") || exit
		new=$kept.$BASHPID
		{
			(cd "$TOP" && sha256sum $files)
			(cd "$TOP" && sed -n 's/^# Input from: //p' $files) | while read -r command; do
				(eval "$command") < /dev/null || echo "$command fails"
			done
		} | sort | sha256sum | cut -d ' ' -f 1 > "$new" && mv "$new" "$kept" || exit
	fi
	echo "$(< "$kept")"
}

# place CHECK COMMIT: print the name of the file with the result.  It has hashes of the
# content and the change, and of the message, because a rebase gives other commits.
place()
{
	local kept=$CHECK_RUN/id-$2 content message

	if [ ! -s "$kept" ]; then
		content=base-$(tree_git rev-parse "$2^{tree}") || exit
		[ "$2" = "$BASE" ] || content=$(tree_git rev-parse "$2^{tree}" "$2^^{tree}" | sha1sum)
		message=$(tree_git log -1 --format=%B "$2" | sha1sum)
		echo "${content:0:21} ${message:0:16}" > "$kept.$BASHPID"
		mv "$kept.$BASHPID" "$kept"
	fi
	read -r content message < "$kept"
	[[ $(< "$TOP/$(program_of "$1")") == *$'\n# Reads: message\n'* ]] || message=
	echo "$STORE/$content${message:+-$message}-$1"
}

# result CHECK COMMIT: ok, - (nothing to check), red, or not run
result()
{
	local file key= verdict=

	file=$(place "$@")
	[ ! -e "$file" ] || { read -r verdict; read -r key; } < "$file"
	[ "$key" = "$(key "$1")" ] && { [ $verdict != red ] || [ "$file" -nt "$CHECK_RUN/started" ]; } ||
		verdict="not run"
	echo "$verdict"
}

log_of() { echo "$(place "$@").log"; }

# need CHECK COMMIT: run it, unless its result is known.  Fail if it has failed.
need()
{
	local file key arguments=("$2") rc=0

	exec 5>&-	# the lock of the tree (see at()), which the check may take
	[[ $1 != *-* ]] || arguments+=("${1#*-}")
	key=$(key "$1") && file=$(place "$1" "$2") || exit
	(
		flock 7
		[ "$(result "$@")" = "not run" ] || exit 0
		rm -f "$file"
		"$TOP/$(program_of "$1")" "${arguments[@]}" > "$file.log" 2>&1 < /dev/null 7>&- || rc=$?
		# If a signal has ended it, there is no result.
		[ $rc -le 128 ] || exit
		case $rc in
		0) echo ok ;;
		4) echo - ;;
		*) echo red ;;
		esac > "$file.new"
		echo "$key" >> "$file.new"
		mv "$file.new" "$file"
	) 7>> "$file.log"
	case $(result "$@") in ok|-) ;; *) return 1 ;; esac
}

# forget CHECK COMMIT: the next run tries again.
forget() { rm -f "$(place "$@")"; }

# require CHECK COMMIT WHY: end with WHY and the check's first errors if it has failed.
require()
{
	need "$1" "$2" || {
		grep -m 3 -E 'error: |Error |undefined|^ *not ok' "$(log_of "$1" "$2")" || true
		die "$3" "$(log_of "$1" "$2")"
	}
}
