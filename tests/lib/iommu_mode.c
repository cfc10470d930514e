// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linked to programs of the kernel tree, this lets VFIO_SELFTESTS_IOMMU_MODE choose the
 * IOMMU mode of the tests that the tree runs in the default mode only.
 */
#include <stdlib.h>

#include <libvfio.h>

#define MODE_ENV "VFIO_SELFTESTS_IOMMU_MODE"

static __attribute__((constructor)) void set_iommu_mode(void)
{
	const char *mode = getenv(MODE_ENV);

	if (mode)
		default_iommu_mode = mode;
}
