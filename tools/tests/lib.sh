# SPDX-License-Identifier: GPL-2.0
# Sourced after lib.sh by tests of the tools: a copy of them, commands that are faked, and a
# cache that is empty.  Nothing is installed, whatever the machine lacks.

. "$TOP/tools/ktap.sh"

unset LINUX QEMU MIRROR DOWNLOADS CI
export SETUP=no
mkdir -p "$BUILD"
T=$(mktemp -d "$BUILD/test-${0##*/}.XXXXXX")
cleanup() { rm -rf "$T"; }
trap cleanup EXIT

# A copy of the tools and their configuration to modify, and a separate cache
mkdir -p "$T/bin" "$T/top/build" "$T/cache"
cp -a "$TOP"/{Makefile,tools,configs,patches,guest,bench,Documentation} "$T/top/"
PATH=$T/bin:$PATH

fake()	# COMMAND < SCRIPT
{
	{ echo '#!/bin/bash'; cat; } > "$T/bin/$1"
	chmod +x "$T/bin/$1"
}
plainly() { rm -rf "${T:?}/bin"; mkdir "$T/bin"; hash -r; }
try() { plainly; test_ "$@"; }

# few: make a directory of the commands that the tools need on any system.
few()
{
	local c

	mkdir -p "$T/few"
	for c in bash env sed sort comm dirname nproc mkdir cat awk git uname cut xargs tr echo head grep sha256sum "$@"; do
		ln -sf "$(type -P "$c")" "$T/few/$c"
	done
}

cache_is_clean()
{
	[ -z "$(find "$T/cache" -mindepth 2 -maxdepth 2 ! -name '*.lock')" ] ||
		{ echo "the cache has:"; ls -A "$T/cache/vfio-dmabuf"; return 1; }
}
# fails WORDS COMMAND...: like refused, but progress messages are allowed.
fails()
{
	local words=$1

	shift
	! "$@" > "$T/out" 2>&1 < /dev/null || { echo "it did not fail"; return 1; }
	grep -v ': log: ' "$T/out" | tail -n 1 | grep -qF -e "$words" &&
		[ "$(wc -l < "$T/out")" -le 4 ] || { echo "it said:"; cat "$T/out"; return 1; }
}
# works COMMAND...: it succeeds, and $T/out has its output.
works() { "$@" > "$T/out" 2>&1 < /dev/null || { echo "it said:"; cat "$T/out"; return 1; }; }
