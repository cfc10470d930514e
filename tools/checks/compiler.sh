# SPDX-License-Identifier: GPL-2.0
# Sourced by the checks gcc and clang.
#
# Inputs: tools/checks/tree.sh tools/checks/patch/build
# Input from: source_state "$TREE" include/uapi arch/x86/include/uapi

. "${BASH_SOURCE[0]%/*}/tree.sh"

COMPILER=${0##*/}

# allmodconfig COMMIT FILE...: the files in allmodconfig
allmodconfig()
{
	local out=more-$COMPILER check=()

	[ "$COMPILER" != gcc ] || check=(C=1 CHECK="$(sparse)")
	at "$1" && rm -rf "${WORK:?}/.$out" && mkdir "$WORK/.$out" && work_make "$out" allmodconfig &&
		"$WORK/scripts/config" --file "$WORK/.$out/.config" -d WERROR -d GCC_PLUGINS &&
		work_make "$out" olddefconfig &&
		work_make "$out" W=1 ${check[@]+"${check[@]}"} prepare "${@:2}" 2>&1
}

# The directories, and in allmodconfig the files that the usual configuration does not build
compile_kernel()
{
	local build=build-$COMPILER file files=() log

	require "$build" "$BASE" "the base does not build"
	require "$build" "$COMMIT" "it does not build"
	log=$(log_of "$build" "$COMMIT")
	none_new gcc_says "$(log_of "$build" "$BASE")" "$log"
	for file in $(changed "$COMMIT" '^(arch|block|drivers|fs|kernel|lib|mm|net|virt)/.*\.c$'); do
		grep -qE "^  CC( \[M\])? +${file%.c}\.o$" "$log" || files+=("${file%.c}.o")
	done
	[ ${#files[@]} -gt 0 ] || return 0
	echo "in allmodconfig: ${files[*]}"
	allmodconfig "$BASE" "${files[@]}" > "$T/before" || die "the base does not build: $(tail -n 3 "$T/before")"
	allmodconfig "$COMMIT" "${files[@]}" | tee "$T/after"
	none_new gcc_says "$T/before" "$T/after"
	[ "$COMPILER" != gcc ] || none_new sparse_says "$T/before" "$T/after"
	rm -rf "${WORK:?}/.more-$COMPILER"
}

test_vmas()
{
	at "$COMMIT"
	make -C "$WORK/tools/testing/vma" clean default 2>&1 < /dev/null
	"$WORK/tools/testing/vma/vma"
}

# The selftests of vfio, all that there are by now.  Those that the patch changes are kept
# beside the result, in RESULT.tests.
compile_selftests()
{
	local out=$WORK/.tests-$COMPILER cc=(CC="ccache gcc") headers tests

	[ "$COMPILER" != clang ] || cc=(LLVM=-19 CC="ccache clang-19")
	headers=$(kernel_headers linux)
	at "$COMMIT"
	# What is left of a later commit depends on headers that are not there yet.
	[ -s "$out/.commit" ] && tree_git merge-base --is-ancestor "$(cat "$out/.commit")" "$COMMIT" || rm -rf "$out"
	mkdir -p "$out"
	echo "$COMMIT" > "$out/.commit"
	# Warnings about files that are not rebuilt were reported for an earlier commit.
	LDFLAGS= kmake "$WORK/tools/testing/selftests/vfio" "$out" OUTPUT="$out" "${cc[@]}" \
		EXTRA_CFLAGS="-static -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare" \
		KHDR_INCLUDES="-isystem $headers" < /dev/null 2>&1
	[ "$COMPILER" = gcc ] || return 0
	tests=$(place gcc "$COMMIT").tests
	rm -rf "$tests"
	mkdir "$tests"
	changed_tests "$COMMIT" | (cd "$out" && xargs cp -t "$tests")
}

check_compiler()
{
	if is_kernel "$COMMIT"; then
		compile_kernel
		[ "$COMPILER" = clang ] || ! changed "$COMMIT" '^tools/testing/vma/' | grep -q . || test_vmas
	elif is_tests "$COMMIT"; then
		compile_selftests
	else
		skip "it changes neither the kernel nor the selftests of vfio"
	fi
}
