// SPDX-License-Identifier: GPL-2.0-only
/*
 * An importer of DMABUFs that userspace controls, and that can be slow, see
 * dmabuf_importer.h. For tests only: whatever opens it can block exporters.
 */
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "dmabuf_importer.h"

/* The exporter may wait unkillably, and a test that fails must not hang. */
#define UNMAP_MS_MAX 15000

/* Its work begins in enable_signaling(). A signaled fence does not use the module. */
struct importer_fence {
	struct dma_fence base;
	struct delayed_work work;
	unsigned int ms;
};

struct importer {
	/* Serializes the ioctls */
	struct mutex lock;
	struct pci_dev *pdev;
	struct dma_buf_attachment *attach;
	unsigned int callback_ms;
	unsigned int unmap_ms;
	struct delayed_work unmap_work;
	struct importer_fence *fence;

	/* Under the reservation lock of the DMABUF */
	struct sg_table *sgt;
	unsigned int told;
};

static void importer_invalidate_mappings(struct dma_buf_attachment *attach)
{
	struct importer *importer = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);

	WRITE_ONCE(importer->told, importer->told + 1);
	msleep(importer->callback_ms);
	if (importer->sgt)
		schedule_delayed_work(&importer->unmap_work,
				      msecs_to_jiffies(importer->unmap_ms) + 1);
}

static const struct dma_buf_attach_ops importer_attach_ops = {
	.allow_peer2peer = true,
	.invalidate_mappings = importer_invalidate_mappings,
};

static long importer_attach(struct importer *importer, void __user *uarg)
{
	struct dmabuf_importer_attach arg;
	struct dma_buf_attachment *attach;
	struct dma_buf *dmabuf;
	long ret;

	if (importer->attach)
		return -EBUSY;
	if (copy_from_user(&arg, uarg, sizeof(arg)))
		return -EFAULT;

	importer->pdev = pci_get_domain_bus_and_slot(arg.domain, arg.bus, arg.devfn);
	if (!importer->pdev)
		return -ENXIO;

	dmabuf = dma_buf_get(arg.fd);
	if (IS_ERR(dmabuf)) {
		ret = PTR_ERR(dmabuf);
		goto err_put_pdev;
	}

	importer->callback_ms = arg.callback_ms;
	importer->unmap_ms = arg.unmap_ms ?: UNMAP_MS_MAX;
	attach = dma_buf_dynamic_attach(dmabuf, &importer->pdev->dev,
					&importer_attach_ops, importer);
	if (IS_ERR(attach)) {
		ret = PTR_ERR(attach);
		goto err_put_dmabuf;
	}

	/* For importer_mmap(), which cannot take the mutex under the mmap_lock */
	smp_store_release(&importer->attach, attach);
	return 0;

err_put_dmabuf:
	dma_buf_put(dmabuf);
err_put_pdev:
	pci_dev_put(importer->pdev);
	return ret;
}

static long importer_map(struct importer *importer)
{
	struct dma_buf_attachment *attach = importer->attach;
	struct sg_table *sgt;
	long ret = 0;

	if (!attach)
		return -EINVAL;

	dma_resv_lock(attach->dmabuf->resv, NULL);
	if (importer->sgt) {
		ret = -EBUSY;
	} else {
		sgt = dma_buf_map_attachment(attach, DMA_BIDIRECTIONAL);
		if (IS_ERR(sgt))
			ret = PTR_ERR(sgt);
		else
			importer->sgt = sgt;
	}
	dma_resv_unlock(attach->dmabuf->resv);

	return ret;
}

static void importer_unmap(struct importer *importer)
{
	struct dma_buf_attachment *attach = importer->attach;

	dma_resv_lock(attach->dmabuf->resv, NULL);
	if (importer->sgt)
		dma_buf_unmap_attachment(attach, importer->sgt, DMA_BIDIRECTIONAL);
	importer->sgt = NULL;
	dma_resv_unlock(attach->dmabuf->resv);
}

static void importer_unmap_work(struct work_struct *work)
{
	importer_unmap(container_of(to_delayed_work(work), struct importer, unmap_work));
}

static const char *importer_fence_name(struct dma_fence *fence)
{
	return "dmabuf_importer";
}

static bool importer_fence_enable_signaling(struct dma_fence *base)
{
	struct importer_fence *fence = container_of(base, struct importer_fence, base);

	schedule_delayed_work(&fence->work, msecs_to_jiffies(fence->ms) + 1);
	return true;
}

static const struct dma_fence_ops importer_fence_ops = {
	.get_driver_name = importer_fence_name,
	.get_timeline_name = importer_fence_name,
	.enable_signaling = importer_fence_enable_signaling,
};

static void importer_fence_work(struct work_struct *work)
{
	struct importer_fence *fence = container_of(to_delayed_work(work),
						    struct importer_fence, work);

	dma_fence_signal(&fence->base);
}

static long importer_add_fence(struct importer *importer, unsigned int ms)
{
	struct importer_fence *fence;
	struct dma_resv *resv;
	int ret;

	if (!importer->attach || ms > UNMAP_MS_MAX)
		return -EINVAL;
	if (importer->fence)
		return -EBUSY;

	fence = kzalloc_obj(*fence, GFP_KERNEL);
	if (!fence)
		return -ENOMEM;

	fence->ms = ms;
	INIT_DELAYED_WORK(&fence->work, importer_fence_work);
	dma_fence_init(&fence->base, &importer_fence_ops, NULL,
		       dma_fence_context_alloc(1), 1);
	importer->fence = fence;

	resv = importer->attach->dmabuf->resv;
	dma_resv_lock(resv, NULL);
	ret = dma_resv_reserve_fences(resv, 1);
	if (!ret)
		dma_resv_add_fence(resv, &fence->base, DMA_RESV_USAGE_BOOKKEEP);
	dma_resv_unlock(resv);

	return ret;
}

static void importer_fence_put(struct importer_fence *fence)
{
	/* Signaling is not enabled any more after this. */
	dma_fence_signal(&fence->base);
	cancel_delayed_work_sync(&fence->work);
	dma_fence_put(&fence->base);
}

static long importer_vma_file(unsigned long addr)
{
	struct vm_area_struct *vma;
	struct file *file = NULL;
	int fd;

	scoped_guard(mmap_read_lock, current->mm) {
		vma = vma_lookup(current->mm, addr);
		if (vma && vma->vm_file)
			file = get_file(vma->vm_file);
	}
	if (!file)
		return -ENOENT;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		fput(file);
	else
		fd_install(fd, file);
	return fd;
}

static long importer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct importer *importer = file->private_data;

	guard(mutex)(&importer->lock);

	switch (cmd) {
	case DMABUF_IMPORTER_ATTACH:
		return importer_attach(importer, (void __user *)arg);
	case DMABUF_IMPORTER_MAP:
		return importer_map(importer);
	case DMABUF_IMPORTER_UNMAP:
		if (importer->attach) {
			importer_unmap(importer);
			cancel_delayed_work_sync(&importer->unmap_work);
		}
		return 0;
	case DMABUF_IMPORTER_TOLD:
		return READ_ONCE(importer->told);
	case DMABUF_IMPORTER_FENCE:
		return importer_add_fence(importer, arg);
	case DMABUF_IMPORTER_VMA_FILE:
		return importer_vma_file(arg);
	default:
		return -ENOTTY;
	}
}

/* Map the DMABUF through the importer's file, as GPU drivers do. */
static int importer_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct importer *importer = file->private_data;
	struct dma_buf_attachment *attach;

	/* Pairs with importer_attach() */
	attach = smp_load_acquire(&importer->attach);
	return attach ? dma_buf_mmap(attach->dmabuf, vma, 0) : -EINVAL;
}

static int importer_open(struct inode *inode, struct file *file)
{
	struct importer *importer;

	importer = kzalloc_obj(*importer, GFP_KERNEL);
	if (!importer)
		return -ENOMEM;

	mutex_init(&importer->lock);
	INIT_DELAYED_WORK(&importer->unmap_work, importer_unmap_work);
	file->private_data = importer;

	return 0;
}

static int importer_release(struct inode *inode, struct file *file)
{
	struct importer *importer = file->private_data;
	struct dma_buf *dmabuf;

	if (importer->fence)
		importer_fence_put(importer->fence);
	if (importer->attach) {
		dmabuf = importer->attach->dmabuf;
		importer_unmap(importer);
		/* It is not scheduled again, because the DMABUF is not mapped. */
		cancel_delayed_work_sync(&importer->unmap_work);
		dma_buf_detach(dmabuf, importer->attach);
		dma_buf_put(dmabuf);
		pci_dev_put(importer->pdev);
	}
	kfree(importer);

	return 0;
}

static const struct file_operations importer_fops = {
	.owner = THIS_MODULE,
	.open = importer_open,
	.release = importer_release,
	.unlocked_ioctl = importer_ioctl,
	.mmap = importer_mmap,
};

static struct miscdevice importer_miscdev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dmabuf_importer",
	.fops = &importer_fops,
	.mode = 0600,
};

module_misc_device(importer_miscdev);
MODULE_IMPORT_NS("DMA_BUF");
MODULE_DESCRIPTION("Importer of DMABUFs for tests");
MODULE_LICENSE("GPL");
