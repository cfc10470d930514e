// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver that maps a BAR write-combining from its fault handler, as vfio-pci does for a
 * DMABUF: /dev/pfnmap_wc, for the device @bdf. MAP_SHARED maps the BAR @bar from its
 * start; an odd page offset sets VM_ALLOW_ANY_UNCACHED for the VMA, an even one does not.
 *
 * For tests only: it ignores the driver that is bound to the device.
 */
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>

static char *bdf;
module_param(bdf, charp, 0444);
MODULE_PARM_DESC(bdf, "The device, such as 0000:01:00.0");

static int bar;
module_param(bar, int, 0444);
MODULE_PARM_DESC(bar, "The BAR that is mapped");

static struct pci_dev *pfnmap_wc_pdev;

static vm_fault_t pfnmap_wc_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long mask = (PAGE_SIZE << order) - 1;
	unsigned long addr = vmf->address & ~mask;
	phys_addr_t phys = pci_resource_start(pfnmap_wc_pdev, bar) +
			   (addr - vma->vm_start);

	if (addr < vma->vm_start || addr + mask >= vma->vm_end || phys & mask)
		return VM_FAULT_FALLBACK;

	switch (order) {
	case 0:
		return vmf_insert_pfn(vma, addr, PHYS_PFN(phys));
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	case PMD_ORDER:
		return vmf_insert_pfn_pmd(vmf, PHYS_PFN(phys), false);
#endif
	default:
		return VM_FAULT_FALLBACK;
	}
}

static vm_fault_t pfnmap_wc_fault(struct vm_fault *vmf)
{
	return pfnmap_wc_huge_fault(vmf, 0);
}

static const struct vm_operations_struct pfnmap_wc_vm_ops = {
	.fault = pfnmap_wc_fault,
	.huge_fault = pfnmap_wc_huge_fault,
};

static int pfnmap_wc_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_end - vma->vm_start > pci_resource_len(pfnmap_wc_pdev, bar))
		return -EINVAL;

	vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	if (vma->vm_pgoff & 1)
		vm_flags_set(vma, VM_ALLOW_ANY_UNCACHED);
	vma->vm_ops = &pfnmap_wc_vm_ops;

	return 0;
}

static const struct file_operations pfnmap_wc_fops = {
	.owner = THIS_MODULE,
	.mmap = pfnmap_wc_mmap,
};

static struct miscdevice pfnmap_wc_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "pfnmap_wc",
	.fops = &pfnmap_wc_fops,
};

static int __init pfnmap_wc_init(void)
{
	unsigned int domain, bus, slot, func;
	int ret;

	if (!bdf || sscanf(bdf, "%x:%x:%x.%x", &domain, &bus, &slot, &func) != 4)
		return -EINVAL;

	pfnmap_wc_pdev = pci_get_domain_bus_and_slot(domain, bus,
						     PCI_DEVFN(slot, func));
	if (!pfnmap_wc_pdev)
		return -ENODEV;

	ret = -EINVAL;
	if (bar < 0 || bar >= PCI_STD_NUM_BARS || !pci_resource_len(pfnmap_wc_pdev, bar))
		goto out_put;

	ret = misc_register(&pfnmap_wc_misc);
	if (!ret)
		return 0;

out_put:
	pci_dev_put(pfnmap_wc_pdev);
	return ret;
}
module_init(pfnmap_wc_init);

static void __exit pfnmap_wc_exit(void)
{
	misc_deregister(&pfnmap_wc_misc);
	pci_dev_put(pfnmap_wc_pdev);
}
module_exit(pfnmap_wc_exit);

MODULE_DESCRIPTION("Map a BAR write-combining, for tests");
MODULE_LICENSE("GPL");
