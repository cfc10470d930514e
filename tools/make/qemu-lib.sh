# SPDX-License-Identifier: GPL-2.0
# Sourced after lib.sh by tools/make/qemu and tools/make/qemu-tree, which set $target: how
# QEMU is configured and built, and where the files of qemu/ belong in its source.

EDU_PLUS=(hw/misc/edu-plus.c docs/specs/edu-plus.rst tests/qtest/edu-plus-test.c)

# patch_in DIR: print the path of the patch that makes them part of QEMU's build.
patch_in()
{
	local patches=("$1"/*.patch)

	[ -e "${patches[0]}" ] && [ ${#patches[@]} = 1 ] || die "$1 must contain one patch"
	echo "${patches[0]}"
}

# copy_source SOURCE DIR, without the source of the firmware: most of the files, and not built
copy_source() { mkdir "$2" && tar -C "$1" --exclude=./roms -c . | tar -C "$2" -x; }

# The names of the needed devices in QEMU's configuration.  Only these devices are built,
# which saves a third of the time.
config="EDU EDU_PLUS PCIE_PORT VIRTIO_PCI VIRTIO_SERIAL VIRTIO_BLK BOCHS_DISPLAY
	IVSHMEM_DEVICE PCI_TESTDEV E1000E_PCI_EXPRESS IGB_PCI_EXPRESS"	# igb is built on e1000e
outputs=("qemu-system-$target")
if [ "$target" = x86_64 ]; then
	config+=" Q35 VTD ISA_DEBUG SERIAL_ISA"
	outputs+=(tests/qtest/edu-plus-test)	# for machine q35
else
	config+=" ARM_VIRT"
fi

# Use Debian's paths of the firmware and of the boot code for -kernel.
options=(
	--target-list="$target-softmmu"
	--without-default-features --enable-tcg
	--without-default-devices "--with-devices-$target=bench"
	--disable-docs --disable-tools --disable-werror --disable-debug-info
	--disable-install-blobs --firmwarepath=/usr/share/qemu:/usr/share/seabios
)
[ "$(uname -m)" != "$target" ] || options+=(--enable-kvm)

# Prefer Debian's python3, to which python3-venv belongs, to another one in PATH.
python=/usr/bin/python3
[ -x $python ] || python=$(type -P python3) || python=python3

need_tools()
{
	local tool missing=

	for tool in cc:gcc make:make ninja:ninja-build pkg-config:pkg-config \
			python3:python3-venv bzip2:bzip2; do
		type -P "${tool%%:*}" >/dev/null || missing+=" ${tool#*:}"
	done
	[[ $missing == *python3* ]] || "$python" -c 'import ensurepip' 2>/dev/null ||
		missing+=" python3-venv"
	if [[ $missing != *pkg-config* ]]; then
		pkg-config --exists 'glib-2.0 >= 2.66' || missing+=" libglib2.0-dev"
		pkg-config --exists 'pixman-1 >= 0.21.8' || missing+=" libpixman-1-dev"
	fi
	if [[ $missing != *gcc* ]]; then
		cc -E -include libfdt.h -x c /dev/null >/dev/null 2>&1 || missing+=" libfdt-dev"
	fi
	[ -z "$missing" ] || die "building QEMU needs the Debian packages$missing"
}

# configure SOURCE: set SOURCE/build up for ninja.
configure()
{
	local edk2 site cc=cc

	! type -P ccache >/dev/null || cc="ccache cc"
	cd "$1" || return

	# Debian's source has no firmware images.  Empty files satisfy the build, which
	# unpacks some.
	while read -r edk2; do
		[ -e "pc-bios/$edk2.bz2" ] || : > "pc-bios/$edk2.bz2"
	done < <(sed -n "s/^    '\(edk2-.*\.fd\)',$/\1/p" pc-bios/meson.build)

	printf 'CONFIG_%s=y\n' $config >"configs/devices/$target-softmmu/bench.mak" &&
	mkdir -p build && cd build &&
	../configure --cc="$cc" --python="$python" "${options[@]}" &&
	# ninja runs meson again if a meson.build changes, also without this PYTHONPATH.
	site=$(echo pyvenv/lib/python3*/site-packages) &&
	echo "$PYTHONPATH" > "$site/meson.pth"
}

# build SOURCE: configure and build in SOURCE/build.
build()
{
	local version

	version=$(< "$1/VERSION")
	# ccache must not see where the source is.
	export CCACHE_BASEDIR=$1
	# Prefer the fetched meson to an installed one.
	PYTHONPATH=$("$TOP/tools/make/fetch" meson)/usr/lib/python3/dist-packages || exit
	export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
	[ -e "$1/build/build.ninja" ] || (logged qemu-configure configure "$1") ||
		die "QEMU $version could not be configured" "$LOGS/qemu-configure.log"
	watched qemu logged qemu nice ninja -C "$1/build" -j "$JOBS" "${outputs[@]}" ||
		die "QEMU $version could not be built" "$LOGS/qemu.log"
}
