# SPDX-License-Identifier: GPL-2.0
# Sourced by the scripts in tools/: paths, messages, and shared helpers.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$TOP/build
LOGS=$BUILD/logs
[ -n "${HOME-}" ] || { unset HOME; export HOME=~; }	# as the password file says
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/vfio-dmabuf
ARCH=x86 CROSS= IMAGE=arch/x86/boot/bzImage EMULATOR=x86_64
export LC_ALL=C

# The variables and the job server of a calling make must not reach the builds of the
# kernel and QEMU.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL

# The user's git configuration (hooks, signing, diff options) must not affect the
# queue, and git must not prompt.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
export GIT_EDITOR=true
# build/ and the cache may belong to another user, as in a container.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'

# All clones and cells share ccache.  Cells are built in a child of their source tree, so
# that the compiler sees the same relative paths everywhere.
export CCACHE_DIR=${CCACHE_DIR:-$CACHE/ccache}
export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-12G}
export CCACHE_NOHASHDIR=1
# Take the headers from the compiler: running the preprocessor costs a third of the time.
export CCACHE_DEPEND=${CCACHE_DEPEND-1}
export CCACHE_SLOPPINESS=time_macros,include_file_mtime,include_file_ctime

msg() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die MESSAGE [LOG]: print one sentence and the path of the log, and exit with 1.  Where
# AT_FAULT=machine, because there is no network or no space, tell tools/check so.
die()
{
	[ "${AT_FAULT-}" != machine ] || [ -z "${MACHINE_FAULT-}" ] || echo "$1" > "$MACHINE_FAULT"
	printf '%s: %s\n' "${0##*/}" "$1" >&2
	[ -z "${2-}" ] || printf '%s: log: %s\n' "${0##*/}" "$2" >&2
	exit "${DIE_STATUS:-1}"
}

# plain NAME PATH: fail unless make, Kbuild, and QEMU's options can take the path.
plain()
{
	[[ $2 == /* ]] || die "$1 is not an absolute path: '$2'"
	[[ ${2//[\/._+@=~-]/} != *[[:space:][:punct:][:cntrl:]]* ]] ||
		die "$1 must not have spaces or special characters, which make and QEMU cannot take: '$2'"
}
[ "$(uname -m)" = x86_64 ] || die "this machine is $(uname -m): the bench needs an x86-64 host"
plain "the path of this repository" "$TOP"

# TREE=DIR: the patched kernel is what is in that git tree, which is only read.  Everything
# that is made for it is in build/tree.  (The queue tools have a variable TREE of their own.)
[ -z "${TREE-}" ] || OWN_TREE=$TREE
unset TREE
if [ -n "${OWN_TREE-}" ]; then
	[ -d "$OWN_TREE" ] || die "TREE=$OWN_TREE is not a directory ('make TREE=' goes back to patches/)"
	OWN_TREE=$(cd "$OWN_TREE" && pwd -P)
	plain "TREE" "$OWN_TREE"
	export OWN_TREE GIT_OPTIONAL_LOCKS=0
	BUILD=$TOP/build/tree LOGS=$TOP/build/tree/logs
fi
plain "the path of the cache (XDG_CACHE_HOME)" "$CACHE"
plain "TMPDIR" "${TMPDIR:-/tmp}"

# limits ROOT: print how many processors this process may use, and how many MiB of memory
# are available, both within the limits of its cgroups (version 1 or 2).
limits()
{
	local root=${1%/} cpus memory name dir quota period most

	cpus=$(nproc)
	memory=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' "$root/proc/meminfo")
	least() { [ "${!1}" -le "$2" ] || printf -v "$1" %s "$2"; }
	while IFS=: read -r _ name dir; do
		case ,$name, in
		,,|*,cpu,*|*,memory,*) dir=$root/sys/fs/cgroup/$name${dir%/} ;;
		*) continue ;;
		esac
		while [ "$dir" != "$root/sys/fs" ]; do
			quota= most=
			read -r quota period < "$dir/cpu.max" ||
				{ read -r quota < "$dir/cpu.cfs_quota_us" && read -r period < "$dir/cpu.cfs_period_us"; } ||
				true
			read -r most < "$dir/memory.max" || read -r most < "$dir/memory.limit_in_bytes" || true
			[[ $quota != [1-9]* ]] || least cpus $(((quota + period - 1) / period))
			[[ $most != [1-9]* ]] || least memory $((most >> 20))
			dir=${dir%/*}
		done
	done < "$root/proc/self/cgroup" 2> /dev/null || true
	echo "$cpus $memory"
}

# JOBS: parallel jobs of a build, of up to 1 GiB each; GUESTS: parallel guests, which are
# idle half of the time and use up to 1.5 GiB each.
if [ -z "${JOBS-}" ]; then
	read -r JOBS GUESTS < <(limits / | awk '{ print $2 < 1024 * $1 ? int($2 / 1024) : $1, int($2 / 1536) }')
	[ "$JOBS" != 0 ] || JOBS=1
fi
[[ $JOBS =~ ^[1-9][0-9]{0,3}$ ]] || die "JOBS=$JOBS is not a number of jobs"
[[ ${GUESTS:=$((2 * JOBS))} =~ ^[0-9]{1,4}$ ]] || die "GUESTS=$GUESTS is not a number of guests"
[ "$GUESTS" -le $((2 * JOBS)) ] || GUESTS=$((2 * JOBS))
[ "$GUESTS" != 0 ] || GUESTS=1
export JOBS GUESTS

# Ctrl-C: print one message, and let the EXIT traps clean up.  The saved stderr is used,
# because the running command may have redirected it.
exec {STDERR}>&2
trap 'trap - INT TERM; printf "\n%s: interrupted\n" "${0##*/}" >&"$STDERR"; exit 130' INT
trap 'trap - INT TERM; printf "%s: terminated\n" "${0##*/}" >&"$STDERR"; exit 143' TERM

# need_space MIB DIR: fail now if DIR has less free space.
need_space()
{
	local have

	mkdir -p "$2" || AT_FAULT=machine die "cannot create $2"
	have=$(df -Pm "$2" | awk 'NR == 2 { print $4 }')
	[ "$have" -ge "$1" ] ||
		AT_FAULT=machine die "not enough space in $2: $1 MiB are needed, $have MiB are free"
}

# logged NAME COMMAND...: run COMMAND with its output in $LOGS/NAME.log.
logged()
{
	local log=$LOGS/$1.log

	shift
	mkdir -p "$LOGS"
	"$@" >"$log" 2>&1 </dev/null
}

# built NAME: print how far the build with the log $LOGS/NAME.log is.  ninja says how many
# objects there are; of a kernel about as many as its last build made.
built()
{
	local log=$LOGS/$1.log n most

	[ -f "$log" ] || return 0
	n=$(tail -n 1 "$log" | sed -nE 's,^\[([0-9]+)/([0-9]+)\].*,\1 of \2,p')
	if [ -z "$n" ]; then
		n=$(grep -cE '^  [A-Z]' "$log") || n=0
		most=$(cat "$CACHE/objects-$1" 2> /dev/null) || most=2000
		[ "$n" -ge "$most" ] || n+=" of about $most"
	fi
	echo "$n objects"
}

# watched NAME COMMAND...: run COMMAND, a build with the log $LOGS/NAME.log.  On a terminal
# show how far it is.
watched()
{
	local shown='' rc=0

	if [ -t "$STDERR" ]; then
		while sleep 1 && kill -0 $$; do printf '\r\033[K%s: %s' "$1" "$(built "$1")" >&"$STDERR"; done &
		shown=$!
	fi
	"${@:2}" || rc=$?
	[ -z "$shown" ] || { kill "$shown"; printf '\r\033[K' >&"$STDERR"; }
	return $rc
}

# locked NAME: take a lock that all clones share, until this script ends.
locked()
{
	mkdir -p "$CACHE" 2> /dev/null && [ -w "$CACHE" ] || die "$CACHE cannot be written to: pass XDG_CACHE_HOME=DIR"
	exec 9>"$CACHE/$1.lock"
	flock -n 9 || { msg "waiting for another run that uses $1"; flock 9; }
}

# source_state DIR [PATH...]: print everything in the git tree DIR that a build depends
# on: the files of HEAD, uncommitted changes, and new files.
source_state()
{
	local dir=$1

	shift
	git -C "$dir" ls-tree HEAD -- "$@"
	git -C "$dir" diff --no-ext-diff --no-textconv --binary HEAD -- "$@"
	git -C "$dir" ls-files -z --others --exclude-standard -- "$@" |
		(cd "$dir" && xargs -0r sha256sum)
}

# arch NAME: set the variables for building for an architecture (the kernel's name) and,
# if it is booted, the image and QEMU's name of it.  tools/make/setup lists the packages of
# the cross compilers.
arch()
{
	ARCH=$1 CROSS= IMAGE=arch/x86/boot/bzImage EMULATOR=x86_64
	case $1 in
	x86)	;;
	i386)	CROSS=i686-linux-gnu- ;;
	arm64)	CROSS=aarch64-linux-gnu- IMAGE=arch/arm64/boot/Image EMULATOR=aarch64 ;;
	s390)	CROSS=s390x-linux-gnu- ;;
	powerpc) CROSS=powerpc64le-linux-gnu- ;;
	riscv)	CROSS=riscv64-linux-gnu- ;;
	*)	die "unknown architecture '$1'" ;;
	esac
}

# arch_of CELL: call arch() for the cell, whose first fragment names the architecture.
arch_of()
{
	local fragment

	fragment=$(awk -v cell="$1" '$1 == cell { print $3 }' "$TOP/configs/cells")
	case $fragment in
	i386|arm64) arch "$fragment" ;;
	*) arch x86 ;;
	esac
}

# kmake TREE OUT ARGUMENT...: make in a kernel tree, for $ARCH, with the results in OUT.
# PAHOLE=none: an installed pahole would change the configuration, and so every object.
kmake()
{
	make -C "$1" O="$2" ARCH="$ARCH" CROSS_COMPILE="$CROSS" CC="ccache ${CROSS}gcc" \
		HOSTCC="ccache gcc" PAHOLE=none -j"$JOBS" "${@:3}"
}

# alone DIR NAME COMMAND...: run COMMAND, which makes files in DIR, with its output in
# $LOGS/NAME.log, while no other run does so: that one must not see half a file.
alone()
{
	mkdir -p "$1"
	(
		flock 7
		logged "${@:2}"
	) 7> "$1/.make.lock"
}

# kernel_headers TREE: install the uapi headers of build/TREE for $ARCH and print their
# path.
kernel_headers()
{
	local out=$BUILD/selftests/headers-$1

	[ "$ARCH" = x86 ] || out+=-$ARCH
	alone "$out" "headers-$1" kmake "$BUILD/$1" "$out" headers ||
		die "the headers of build/$1 could not be installed" "$LOGS/headers-$1.log"
	echo "$out/usr/include"
}

# control_module CELL: build the module that triggers the detectors, and print its path.
control_module()
{
	local out=$BUILD/controls/$1 cell

	cell=$(readlink -f "$BUILD/kernel/$1")
	rm -rf "$out"
	mkdir -p "$out"
	cp "$TOP"/guest/control/* "$out/"
	logged "controls-$1" kmake "$cell/source" "$cell" M="$out" modules ||
		die "the control module does not build against cell $1" "$LOGS/controls-$1.log"
	echo "$out/control.ko"
}

# bench_programs: build bench/ into build/bench, with the library and headers of the
# patched tree.  The programs also run on the base.
bench_programs()
{
	local headers

	headers=$(kernel_headers linux) || exit
	alone "$BUILD/bench" bench-build make -C "$TOP/bench" TREE="$BUILD/linux" HEADERS="$headers" \
		OUTPUT="$BUILD/bench" CC="ccache gcc" -j"$JOBS" || die "the benchmarks do not build" "$LOGS/bench-build.log"
}

# demo_programs: build demo/ with the headers of the patched tree, and print where the
# programs are.
demo_programs()
{
	local headers out=$BUILD/demo

	headers=$(kernel_headers linux) || exit
	alone "$out" demo make -C "$TOP/demo" HEADERS="$headers" OUTPUT="$out" CC="ccache gcc" LDFLAGS=-static -j"$JOBS" ||
		die "the demo does not build" "$LOGS/demo.log"
	echo "$out"
}

# source_files NAME: lines SHA256 PATH of configs/sources
source_files() { awk -v name="$1" '$1 == name { print $2, $3 }' "$TOP/configs/sources"; }

# source_place NAME: where tools/make/fetch keeps that source
source_place() { echo "$CACHE/$1-$(source_files "$1" | sha256sum | cut -c 1-12)"; }

# debian_mirror: print MIRROR=, or the Debian mirror that the system's apt uses.
debian_mirror()
{
	local mirror=${MIRROR-}

	if [ -z "$mirror" ] && command -v apt-get > /dev/null; then
		mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' \
			'Created-By: Packages' | sed -n 's/ Debian Debian$//p' | sort -u | head -n 1)
	fi
	# A list of mirrors
	[[ $mirror != mirror+file:* ]] || mirror=$(awk '/^[a-z]/ { print $1; exit }' "${mirror#mirror+file:}")
	[ -n "$mirror" ] ||
		die "no Debian mirror is known: run 'apt-get update' on Debian, or pass MIRROR=URL on other systems"
	echo "${mirror%/}"
}
