# SPDX-License-Identifier: GPL-2.0
# Sourced by the checks of a patch that compile: one tree, where commits are checked out in
# turn, so that builds are incremental.
#
# Inputs: tools/checks/patch.sh configs/x86-64 configs/p2pdma configs/touched

. "${BASH_SOURCE[0]%/*}/patch.sh"

WORK=$CHECKED/linux
FRAGMENTS="x86-64 p2pdma touched"
# What the queue changes, and what is near it
DIRS="drivers/vfio/ drivers/dma-buf/ drivers/iommu/iommufd/"
NEAR="$DIRS mm/memory.o mm/huge_memory.o mm/mremap.o mm/rmap.o"
DIRS+=" drivers/pci/ drivers/virt/acrn/ arch/x86/mm/pat/ mm/"

# W=1 runs kernel-doc on each file, which takes longer than to compile it. What it would
# report about the files that a patch changes is found by the check kernel_doc.
NO_KERNEL_DOC=KERNELDOC=/dev/null

# at COMMIT: check it out, and touch the files that it changes, so that make compiles them
# again and repeats their warnings.  The tree is locked until the program ends, or needs
# another check.
at()
{
	# A subshell has the lock of its parent, and would wait for it with another descriptor.
	if ! { : >&5; } 2> /dev/null; then
		exec 5> "$CHECKED/.tree.lock"
		flock 5
	fi
	if [ ! -e "$WORK/.git" ]; then
		need_space 6000 "$CHECKED"
		tree_git worktree prune
		tree_git worktree add -q -f --detach "$WORK" base || return
	fi
	rm -f "$(git -C "$WORK" rev-parse --path-format=absolute --git-path index.lock)"	# of a run that was killed
	git -C "$WORK" checkout -q -f --detach "$1" || return
	[ "$1" = "$BASE" ] || changed "$1" | (cd "$WORK" && xargs -r touch -c)
}

# work_make WHAT ARGUMENT...: make in the tree, with the objects in .WHAT
work_make()
{
	local llvm=()

	[[ $1 != *clang ]] || llvm=(LLVM=-19 CC="ccache clang-19" HOSTCC="ccache clang-19")
	kmake "$WORK" ".$1" $NO_KERNEL_DOC ${llvm[@]+"${llvm[@]}"} "${@:2}" < /dev/null
}

fragments() { (cd "$TOP/configs" && cat $FRAGMENTS); }

# configure COMPILER: with the fragments, as far as this commit has them
configure()
{
	local out=$WORK/.$1

	if [ ! -s "$out/.config" ] || ! fragments | cmp -s - "$out/.fragments"; then
		mkdir -p "$out"
		work_make "$1" tinyconfig &&
		(cd "$TOP/configs" && KCONFIG_CONFIG=$out/.config "$WORK/scripts/kconfig/merge_config.sh" \
			-m -O "$out" "$out/.config" $FRAGMENTS) || return
		cp "$out/.config" "$out/.asked"
		fragments > "$out/.fragments"
	fi
	cmp -s "$out/.asked" "$out/.config" || cp "$out/.asked" "$out/.config"
	work_make "$1" olddefconfig
}

sparse() { echo "$(SETUP=no "$TOP/tools/make/fetch" sparse)/sparse"; }

# said LOG: what a compiler, sparse, objtool, modpost or Kconfig says in it: each place
# once, and without the lines' numbers
OTHERS='(WARNING|warning): (modpost|objtool|unmet)'
said()
{
	sed -nE "s|^(\.\./)*||; /:[0-9]+(:[0-9]+)?: ?(warning|error): |$OTHERS/p" "$1" | sort -u |
		sed -E 's/:[0-9]+(:[0-9]+)?: ?(warning|error): /: \2: /; s/\+0x[0-9a-f]+//g' | sort
}
gcc_says() { said "$1" | grep -E "\[-W|: error: |$OTHERS|Kconfig" || true; }
sparse_says() { said "$1" | grep -E ': (warning|error): ' | grep -vE '\[-W|objtool' || true; }

# none_new SAYS OLD NEW: nothing in the log NEW that OLD does not have as often
none_new()
{
	[ -s "$2" ] && [ -s "$3" ] || die "there is nothing to compare"
	! comm -13 <("$1" "$2") <("$1" "$3") | grep .
}
