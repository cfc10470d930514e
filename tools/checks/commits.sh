# SPDX-License-Identifier: GPL-2.0
# Sourced by tools/checks/patches and the checks of a patch: the commits of build/linux.
#
# Inputs: tools/lib.sh tools/queue/lib.sh

. "${BASH_SOURCE[0]%/*}/../lib.sh"
. "$TOP/tools/queue/lib.sh"

BASE=$(tree_git rev-parse -q --verify 'base^{commit}') || die "build/linux does not exist: run tools/queue/tree"
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT

# list_patches: print QUEUE/NUMBER and the commit of each patch.
list_patches()
{
	local queue border last

	[ -z "${EXTRA_ROWS-}" ] || { cat "$EXTRA_ROWS"; return; }
	queues "$TREE" | while read -r queue border last; do
		tree_git rev-list --reverse "$border..$last" |
			awk -v queue="$queue" '{ printf "%s/%04d %s\n", queue, NR, $1 }'
	done
}

# commit_of NAME: the commit that is called QUEUE/NUMBER, or NAME by git
commit_of()
{
	local commit

	commit=$(list_patches | awk -v name="$1" '$1 == name { print $2 }')
	tree_git rev-parse -q --verify "${commit:-$1}^{commit}" || die "build/linux has no patch or commit '$1'"
}

name_of() { list_patches | awk -v commit="$1" '$2 == commit { print $1 }'; }

# patch_file COMMIT: its file in patches/, or one that is made of it
patch_file()
{
	local name

	name=$(name_of "$1")
	[ -n "$name" ] && compgen -G "$PATCHES/$name-*.patch" || tree_git format-patch -1 -o "$T" "$1"
}

# changed COMMIT [PATTERN]: the files that it changes
changed() { tree_git diff --name-only --diff-filter=d "$1^" "$1" | grep -E "${2:-.}" || true; }
is_kernel() { changed "$1" | grep -qv '^tools/testing/selftests/'; }
is_tests() { changed "$1" '^tools/testing/selftests/vfio/' | grep -q .; }

# before COMMIT: the patch below it, or the base.  (Borders are empty.)
before()
{
	local commit=$1

	while :; do
		commit=$(tree_git rev-parse "$commit^") || return
		[ "$commit" != "$BASE" ] && tree_git diff --quiet "$commit^" "$commit" || break
	done
	echo "$commit"
}

# queue_ends: the last commits of the queues that lead to the complete kernel
queue_ends() { for queue in prep mmap followup; do queue_end "$TREE" $queue; done; }

# kernels_of COMMIT: the commits whose kernels its check "boot" runs: before it and its own,
# or for a patch of selftests the last one below it that changes the kernel
kernels_of()
{
	local commit=$1

	if is_kernel "$commit"; then
		before "$commit"
	else
		until [ "$commit" = "$BASE" ] || is_kernel "$commit"; do commit=$(before "$commit") || return; done
	fi
	echo "$commit"
}

# changed_tests COMMIT: the selftests that it changes; if there are none, one that every
# change of the library might break
changed_tests()
{
	local tests

	tests=$(changed "$1" '^tools/testing/selftests/vfio/vfio_[a-z0-9_]+\.c$' | sed 's/.*\///; s/\.c$//')
	echo "${tests:-vfio_pci_device_test}"
}
