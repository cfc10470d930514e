// SPDX-License-Identifier: GPL-2.0-only
/*
 * A variant driver of vfio-pci that does what other variant drivers do rarely, or only
 * on rare hardware. Attributes of the device control it:
 *
 * dmabuf	the memory of DMABUFs, from the next open of the device on: "bar",
 *		"other" (the next page of the BAR) or "none" (no export)
 * own_mmap	if set, mmap() of BARs uses vm_ops of the driver
 * read_ms	if not 0, read() of a BAR returns zeros, and takes this long with
 *		memory_lock held before it writes to the memory of the user
 * resume_fails	if set, the device cannot be resumed
 *
 * For tests only.
 */
#include <linux/delay.h>
#include <linux/dma-buf-mapping.h>
#include <linux/lockdep.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>
#include <linux/vfio_pci_core.h>

enum {
	VARIANT_DMABUF_BAR,
	VARIANT_DMABUF_OTHER,
	VARIANT_DMABUF_NONE,
};

static const char * const variant_dmabuf[] = {
	[VARIANT_DMABUF_BAR] = "bar",
	[VARIANT_DMABUF_OTHER] = "other",
	[VARIANT_DMABUF_NONE] = "none",
};

struct variant {
	struct vfio_pci_core_device core;
	int dmabuf;
	bool own_mmap;
	unsigned int read_ms;
	bool resume_fails;
};

/* The pm_ops of vfio-pci-core, and a copy with another runtime_resume() */
static const struct dev_pm_ops *variant_core_pm_ops;
static struct dev_pm_ops variant_pm_ops;

static int variant_get_other_phys(struct vfio_pci_core_device *vdev,
				  struct p2pdma_provider **provider,
				  unsigned int region_index,
				  struct phys_vec *phys_vec,
				  struct vfio_region_dma_range *dma_ranges,
				  size_t nr_ranges, bool *mmap_supported)
{
	bool is_bar;
	size_t i;
	int ret;

	/* It is not the memory of the BAR, so mmap() is not supported. */
	ret = vfio_pci_core_get_dmabuf_phys(vdev, provider, region_index,
					    phys_vec, dma_ranges, nr_ranges,
					    &is_bar);
	for (i = 0; !ret && i < nr_ranges; i++)
		phys_vec[i].paddr += PAGE_SIZE;

	return ret;
}

static const struct vfio_pci_device_ops variant_pci_ops[] = {
	[VARIANT_DMABUF_BAR] = { .get_dmabuf_phys = vfio_pci_core_get_dmabuf_phys },
	[VARIANT_DMABUF_OTHER] = { .get_dmabuf_phys = variant_get_other_phys },
	[VARIANT_DMABUF_NONE] = {},
};

static struct variant *variant_from_dev(struct device *dev)
{
	return container_of((struct vfio_pci_core_device *)dev_get_drvdata(dev),
			    struct variant, core);
}

static struct variant *variant_from_vdev(struct vfio_device *core_vdev)
{
	return container_of(core_vdev, struct variant, core.vdev);
}

static int variant_open_device(struct vfio_device *core_vdev)
{
	struct variant *variant = variant_from_vdev(core_vdev);
	int ret;

	variant->core.pci_ops = &variant_pci_ops[READ_ONCE(variant->dmabuf)];
	ret = vfio_pci_core_enable(&variant->core);
	if (ret)
		return ret;

	vfio_pci_core_finish_enable(&variant->core);
	return 0;
}

static ssize_t variant_read(struct vfio_device *core_vdev, char __user *buf,
			    size_t count, loff_t *ppos)
{
	struct variant *variant = variant_from_vdev(core_vdev);
	unsigned int ms = READ_ONCE(variant->read_ms);
	unsigned long left;

	if (!ms || VFIO_PCI_OFFSET_TO_INDEX(*ppos) > VFIO_PCI_BAR5_REGION_INDEX)
		return vfio_pci_core_read(core_vdev, buf, count, ppos);

	/*
	 * As nvgrace-gpu does. The report of lockdep would be correct, but would disable
	 * lockdep off for the rest of the tests.
	 */
	lockdep_off();
	down_read(&variant->core.memory_lock);
	lockdep_on();
	msleep(ms);
	left = clear_user(buf, count);
	lockdep_off();
	up_read(&variant->core.memory_lock);
	lockdep_on();
	if (left)
		return -EFAULT;

	*ppos += count;
	return count;
}

#define VARIANT_PGOFF_BITS	(VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT)

/* Like the handler of nvgrace-gpu, but for the memory of the BAR */
static vm_fault_t variant_fault(struct vm_fault *vmf)
{
	struct variant *variant = vmf->vma->vm_private_data;
	unsigned int index = vmf->vma->vm_pgoff >> VARIANT_PGOFF_BITS;
	unsigned long pfn;

	pfn = PHYS_PFN(pci_resource_start(variant->core.pdev, index)) +
	      (vmf->pgoff & (BIT(VARIANT_PGOFF_BITS) - 1));

	guard(rwsem_read)(&variant->core.memory_lock);
	return vfio_pci_vmf_insert_pfn(&variant->core, vmf, pfn, 0);
}

static const struct vm_operations_struct variant_vm_ops = {
	.fault = variant_fault,
};

static int variant_mmap(struct vfio_device *core_vdev, struct vm_area_struct *vma)
{
	struct variant *variant = variant_from_vdev(core_vdev);
	unsigned int index = vma->vm_pgoff >> VARIANT_PGOFF_BITS;
	u64 start = (u64)vma->vm_pgoff << PAGE_SHIFT & VFIO_PCI_OFFSET_MASK;

	if (!READ_ONCE(variant->own_mmap))
		return vfio_pci_core_mmap(core_vdev, vma);

	if (!(vma->vm_flags & VM_SHARED) || index > VFIO_PCI_BAR5_REGION_INDEX ||
	    !variant->core.bar_mmap_supported[index] ||
	    start + (vma->vm_end - vma->vm_start) >
	    PAGE_ALIGN(pci_resource_len(variant->core.pdev, index)))
		return -EINVAL;

	vma->vm_private_data = variant;
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &variant_vm_ops;
	return 0;
}

static const struct vfio_device_ops variant_ops = {
	.name = "vfio-pci-variant",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = variant_open_device,
	.close_device = vfio_pci_core_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.get_region_info_caps = vfio_pci_ioctl_get_region_info,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = variant_read,
	.write = vfio_pci_core_write,
	.mmap = variant_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.match_token_uuid = vfio_pci_core_match_token_uuid,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static ssize_t dmabuf_store(struct device *dev, struct device_attribute *attr,
			    const char *buf, size_t count)
{
	struct variant *variant = variant_from_dev(dev);
	int i = sysfs_match_string(variant_dmabuf, buf);

	if (i < 0)
		return i;

	WRITE_ONCE(variant->dmabuf, i);
	return count;
}
static DEVICE_ATTR_WO(dmabuf);

static ssize_t own_mmap_store(struct device *dev, struct device_attribute *attr,
			      const char *buf, size_t count)
{
	struct variant *variant = variant_from_dev(dev);
	bool own_mmap;
	int ret;

	ret = kstrtobool(buf, &own_mmap);
	if (ret)
		return ret;

	WRITE_ONCE(variant->own_mmap, own_mmap);
	return count;
}
static DEVICE_ATTR_WO(own_mmap);

static ssize_t read_ms_store(struct device *dev, struct device_attribute *attr,
			     const char *buf, size_t count)
{
	struct variant *variant = variant_from_dev(dev);
	unsigned int ms;
	int ret;

	ret = kstrtouint(buf, 0, &ms);
	if (ret)
		return ret;

	WRITE_ONCE(variant->read_ms, ms);
	return count;
}
static DEVICE_ATTR_WO(read_ms);

static ssize_t resume_fails_store(struct device *dev, struct device_attribute *attr,
				  const char *buf, size_t count)
{
	struct variant *variant = variant_from_dev(dev);
	bool fails;
	int ret;

	ret = kstrtobool(buf, &fails);
	if (ret)
		return ret;

	WRITE_ONCE(variant->resume_fails, fails);
	return count;
}
static DEVICE_ATTR_WO(resume_fails);

static struct attribute *variant_attrs[] = {
	&dev_attr_dmabuf.attr,
	&dev_attr_own_mmap.attr,
	&dev_attr_read_ms.attr,
	&dev_attr_resume_fails.attr,
	NULL
};
ATTRIBUTE_GROUPS(variant);

static int variant_runtime_resume(struct device *dev)
{
	if (READ_ONCE(variant_from_dev(dev)->resume_fails))
		return -EIO;

	return variant_core_pm_ops->runtime_resume(dev);
}

static int variant_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct variant *variant;
	int ret;

	variant = vfio_alloc_device(variant, core.vdev, &pdev->dev, &variant_ops);
	if (IS_ERR(variant))
		return PTR_ERR(variant);

	dev_set_drvdata(&pdev->dev, &variant->core);
	ret = vfio_pci_core_register_device(&variant->core);
	if (ret) {
		vfio_put_device(&variant->core.vdev);
		return ret;
	}

	/* vfio-pci-core has just set it, always to the same value. */
	if (!variant_core_pm_ops) {
		variant_core_pm_ops = pdev->dev.driver->pm;
		variant_pm_ops = *variant_core_pm_ops;
		variant_pm_ops.runtime_resume = variant_runtime_resume;
	}
	pdev->dev.driver->pm = &variant_pm_ops;
	return 0;
}

static void variant_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *vdev = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(vdev);
	vfio_put_device(&vdev->vdev);
}

static const struct pci_device_id variant_table[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID) },
	{}
};
MODULE_DEVICE_TABLE(pci, variant_table);

static struct pci_driver variant_driver = {
	.name = "vfio-pci-variant",
	.id_table = variant_table,
	.probe = variant_probe,
	.remove = variant_remove,
	.err_handler = &vfio_pci_core_err_handlers,
	.dev_groups = variant_groups,
	.driver_managed_dma = true,
};

module_pci_driver(variant_driver);
MODULE_DESCRIPTION("Variant driver of vfio-pci for tests");
MODULE_LICENSE("GPL");
