// SPDX-License-Identifier: GPL-2.0-only
/*
 * Imports of DMABUFs in all IOMMU modes: of the same DMABUF several times, and across
 * combinations of what revokes the BARs. The importer is the IOAS of the device in some
 * modes, and another one in others.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <linux/limits.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"
#include "tests.h"

static const char *device_bdf;

FIXTURE(imports) {
	struct bar_test t;
	int fd;
};

FIXTURE_VARIANT(imports) {
	const char *iommu_mode;
};

#define FIXTURE_VARIANT_ADD_IOMMU_MODE(_iommu_mode)			       \
FIXTURE_VARIANT_ADD(imports, _iommu_mode) {				       \
	.iommu_mode = #_iommu_mode,					       \
}

FIXTURE_VARIANT_ADD_ALL_IOMMU_MODES();

#undef FIXTURE_VARIANT_ADD_IOMMU_MODE

FIXTURE_SETUP(imports)
{
	struct bar_test *t = &self->t;
	const char *missing;

	missing = bar_test_init(t, device_bdf, variant->iommu_mode, getpagesize());
	if (!missing)
		missing = vfio_pci_dmabuf_export_missing(t->device);
	if (missing)
		SKIP(return, "%s: %s", device_bdf, missing);

	self->fd = vfio_pci_dmabuf_export(t->device, t->bar, 0, t->page);
}

FIXTURE_TEARDOWN(imports)
{
	VFIO_ASSERT_EQ(close(self->fd), 0);
	bar_test_close(&self->t);
}

#define ASSERT_IMPORT(_expected) \
	ASSERT_EQ(_expected, __bar_test_import_try(&self->t, self->fd, self->t.page))

TEST_F(imports, twice)
{
	struct dma_region first = { .size = self->t.page }, second = first;

	iommu_map_dmabuf(self->t.importer, self->fd, &first);
	iommu_map_dmabuf(self->t.importer, self->fd, &second);
	iommu_unmap(self->t.importer, &first);
	ASSERT_IMPORT(0);
	iommu_unmap(self->t.importer, &second);
	ASSERT_IMPORT(0);
}

/* The device is accessible after both have ended, in either order. */
TEST_F(imports, memory_decode_and_d3hot)
{
	struct vfio_pci_device *device = self->t.device;

	if (!vfio_pci_find_cap(device, PCI_CAP_ID_PM))
		SKIP(return, "%s: " NO_PM_CAP, device_bdf);

	vfio_pci_cmd_clear(device, PCI_COMMAND_MEMORY);
	vfio_pci_power_state_set(device, VFIO_PCI_D3HOT);
	ASSERT_IMPORT(-ENODEV);
	vfio_pci_power_state_set(device, VFIO_PCI_D0);
	ASSERT_IMPORT(-ENODEV);
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	ASSERT_IMPORT(0);

	vfio_pci_cmd_clear(device, PCI_COMMAND_MEMORY);
	vfio_pci_power_state_set(device, VFIO_PCI_D3HOT);
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	ASSERT_IMPORT(-ENODEV);
	vfio_pci_power_state_set(device, VFIO_PCI_D0);
	ASSERT_IMPORT(0);
}

TEST_F(imports, low_power_exit_while_memory_off)
{
	struct vfio_pci_device *device = self->t.device;

	if (!vfio_pci_has_runtime_pm(device))
		SKIP(return, NO_RUNTIME_PM);

	vfio_pci_low_power_entry(device, -1);
	vfio_pci_cmd_clear(device, PCI_COMMAND_MEMORY);
	vfio_pci_low_power_exit(device);
	ASSERT_IMPORT(-ENODEV);
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
	ASSERT_IMPORT(0);
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
