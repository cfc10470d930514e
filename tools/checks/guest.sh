# SPDX-License-Identifier: GPL-2.0
# Sourced by the checks of a patch that boot.
#
# Inputs: tools/checks/patch.sh tools/checks/patch/image
# Inputs: tools/vm tools/make/qemu qemu/*.patch qemu/edu-plus.c guest configs/splats
# Input from: "$TOP/tools/make/selftests" > /dev/null && cat "$BUILD/selftests/linux/.stamp"
# Input from: echo "${ACCEL-} ${QEMU-}"

. "${BASH_SOURCE[0]%/*}/patch.sh"

ONE_MODE="-o -Vvfio_type1_iommu -o -Vvfio_type1v2_iommu -o -Viommufd_compat_type1 -o -Viommufd_compat_type1v2"

# boot COMMIT ARGUMENT...: run tools/vm with its kernel and the arguments, and keep what it
# prints in $T/out.
boot()
{
	require image "$1" "there is no kernel"
	KERNEL=$(place image "$1").bzImage SW_SYNC=yes "$TOP/tools/vm" "${@:2}" | tee "$T/out"
}
