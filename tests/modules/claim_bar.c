// SPDX-License-Identifier: GPL-2.0-only
/*
 * Claim the BAR @bar of the device @bdf, as a framebuffer driver does with the memory that
 * the firmware gave it, until this module is removed.
 */
#include <linux/ioport.h>
#include <linux/module.h>
#include <linux/pci.h>

static char *bdf;
module_param(bdf, charp, 0444);
MODULE_PARM_DESC(bdf, "The device, such as 0000:01:00.0");

static int bar;
module_param(bar, int, 0444);
MODULE_PARM_DESC(bar, "The BAR that is claimed");

static struct pci_dev *claim_bar_pdev;

static int __init claim_bar_init(void)
{
	unsigned int domain, bus, slot, func;

	if (!bdf || sscanf(bdf, "%x:%x:%x.%x", &domain, &bus, &slot, &func) != 4)
		return -EINVAL;

	claim_bar_pdev = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, func));
	if (!claim_bar_pdev)
		return -ENODEV;

	if (!request_mem_region(pci_resource_start(claim_bar_pdev, bar),
				pci_resource_len(claim_bar_pdev, bar), "claim_bar")) {
		pci_dev_put(claim_bar_pdev);
		return -EBUSY;
	}

	return 0;
}
module_init(claim_bar_init);

static void __exit claim_bar_exit(void)
{
	release_mem_region(pci_resource_start(claim_bar_pdev, bar),
			   pci_resource_len(claim_bar_pdev, bar));
	pci_dev_put(claim_bar_pdev);
}
module_exit(claim_bar_exit);

MODULE_DESCRIPTION("Claim a BAR, for tests");
MODULE_LICENSE("GPL");
