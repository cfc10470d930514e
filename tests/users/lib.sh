# SPDX-License-Identifier: GPL-2.0
# Sourced by the scripts of tests/users, which run in the guest.

. /users/ktap.sh
T=$(mktemp -d)
shopt -s nullglob

# For how many seconds to wait for something
PATIENCE=180

# until_ COMMAND...: wait until COMMAND succeeds.
until_()
{
	local i

	for ((i = 0; i < PATIENCE * 10; i++)); do
		! "$@" || return 0
		sleep 0.1
	done
	echo "still not after $PATIENCE s: $*"
	return 1
}

says() { grep -qF -e "$1" "$2"; }

# bind BDF: to vfio-pci
bind()
{
	echo vfio-pci > "/sys/bus/pci/devices/$1/driver_override" &&
	echo "$1" > /sys/bus/pci/drivers_probe
}

# devices VENDOR DEVICE: print the addresses.
devices()
{
	local dir

	for dir in /sys/bus/pci/devices/*; do
		[ "$(cat "$dir/vendor") $(cat "$dir/device")" != "$1 $2" ] || echo "${dir##*/}"
	done
}

# look: read the links of all mappings of all processes, as lsof and CRIU do.
look() { while :; do readlink /proc/[0-9]*/map_files/* > /dev/null 2>&1 || :; done; }

version() { dpkg-query -W -f '# ${Package} ${Version}\n' "$@"; }

# A virtual machine that boots the guest's own kernel with nested.c as its init
QEMU=(qemu-system-x86_64 -nodefaults -no-user-config -display none -machine q35,accel=kvm -cpu host -m 512M
	-kernel /users/bzImage -initrd /users/nested.cpio)
APPEND="console=ttyS0 quiet panic=0 tsc=reliable no_timer_check"
