// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lets a process read the page table entry for an address at which it has mapped device
 * memory (VM_IO, VM_PFNMAP): its size, whether it is writable, and its memory type.
 *
 * Write an address, then read the answer, from the same open file:
 *
 *	type=Normal-NC size=4096 writable=1 pfn=0x8000000 prot=0x68000000000fcb
 *
 * or "none", if there is no entry (yet). The write fails with EFAULT if nothing is
 * mapped at the address, and with EINVAL if it is another kind of mapping.
 *
 * For tests only: it discloses PFNs.
 */
#include <linux/bitfield.h>
#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kstrtox.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/slab.h>

#ifdef CONFIG_ARM64
#include <asm/sysreg.h>
#endif

#define PGPROT_TEST_ANSWER_LEN 128

struct pgprot_test {
	/* Protects the answer between a write and a read */
	struct mutex lock;
	char answer[PGPROT_TEST_ANSWER_LEN];
	size_t len;
};

static struct dentry *pgprot_test_dentry;

#if defined(CONFIG_X86)
/*
 * pgprot2cachemode() is not exported. A type that the PAT does not provide has the bits
 * of another one that always exists, so try these first.
 */
static const char *pgprot_test_type(pgprot_t prot, bool huge)
{
	static const struct {
		enum page_cache_mode mode;
		const char *name;
	} types[] = {
		{ _PAGE_CACHE_MODE_WB, "WB" },
		{ _PAGE_CACHE_MODE_UC_MINUS, "UC-" },
		{ _PAGE_CACHE_MODE_UC, "UC" },
		{ _PAGE_CACHE_MODE_WC, "WC" },
		{ _PAGE_CACHE_MODE_WT, "WT" },
		{ _PAGE_CACHE_MODE_WP, "WP" },
	};
	unsigned long bits;
	int i;

	/* In a huge entry the PAT bit is another one */
	if (huge)
		prot = pgprot_large_2_4k(prot);
	bits = pgprot_val(prot) & _PAGE_CACHE_MASK;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		if (bits == cachemode2protval(types[i].mode))
			return types[i].name;
	}
	return "unknown";
}
#elif defined(CONFIG_ARM64)
/* The entry has an index into the register with the attributes. */
static const char *pgprot_test_type(pgprot_t prot, bool huge)
{
	unsigned int index = FIELD_GET(PTE_ATTRINDX_MASK, pgprot_val(prot));

	switch (read_sysreg(mair_el1) >> (8 * index) & MAIR_ATTR_MASK) {
	case MAIR_ATTR_DEVICE_nGnRnE:
		return "Device-nGnRnE";
	case MAIR_ATTR_DEVICE_nGnRE:
		return "Device-nGnRE";
	case MAIR_ATTR_NORMAL_NC:
		return "Normal-NC";
	case MAIR_ATTR_NORMAL_TAGGED:
		return "Normal-Tagged";
	case MAIR_ATTR_NORMAL:
		return "Normal";
	default:
		return "unknown";
	}
}
#else
static const char *pgprot_test_type(pgprot_t prot, bool huge)
{
	return "unknown";
}
#endif

static int pgprot_test_look(struct pgprot_test *test, unsigned long addr)
{
	struct follow_pfnmap_args args = { .address = addr };
	struct mm_struct *mm = current->mm;
	int ret = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;

	args.vma = vma_lookup(mm, addr);
	if (!args.vma) {
		ret = -EFAULT;
	} else if (!(args.vma->vm_flags & (VM_IO | VM_PFNMAP))) {
		ret = -EINVAL;
	} else if (follow_pfnmap_start(&args)) {
		test->len = scnprintf(test->answer, sizeof(test->answer),
				      "none\n");
	} else {
		test->len = scnprintf(test->answer, sizeof(test->answer),
				      "type=%s size=%lu writable=%d pfn=%#lx prot=%#llx\n",
				      pgprot_test_type(args.pgprot,
						       args.addr_mask != PAGE_MASK),
				      ~args.addr_mask + 1, args.writable,
				      args.pfn,
				      (unsigned long long)pgprot_val(args.pgprot));
		follow_pfnmap_end(&args);
	}

	mmap_read_unlock(mm);
	return ret;
}

static int pgprot_test_open(struct inode *inode, struct file *file)
{
	struct pgprot_test *test;

	test = kzalloc_obj(*test);
	if (!test)
		return -ENOMEM;

	mutex_init(&test->lock);
	file->private_data = test;
	return 0;
}

static int pgprot_test_release(struct inode *inode, struct file *file)
{
	struct pgprot_test *test = file->private_data;

	mutex_destroy(&test->lock);
	kfree(test);
	return 0;
}

static ssize_t pgprot_test_write(struct file *file, const char __user *buf,
				 size_t count, loff_t *ppos)
{
	struct pgprot_test *test = file->private_data;
	unsigned long addr;
	int ret;

	ret = kstrtoul_from_user(buf, count, 0, &addr);
	if (ret)
		return ret;

	guard(mutex)(&test->lock);

	test->len = 0;
	ret = pgprot_test_look(test, addr);
	if (ret)
		return ret;

	/* The answer is read from its beginning */
	*ppos = 0;
	return count;
}

static ssize_t pgprot_test_read(struct file *file, char __user *buf,
				size_t count, loff_t *ppos)
{
	struct pgprot_test *test = file->private_data;

	guard(mutex)(&test->lock);

	return simple_read_from_buffer(buf, count, ppos, test->answer,
				       test->len);
}

static const struct file_operations pgprot_test_fops = {
	.owner = THIS_MODULE,
	.open = pgprot_test_open,
	.release = pgprot_test_release,
	.read = pgprot_test_read,
	.write = pgprot_test_write,
	.llseek = default_llseek,
};

static int __init pgprot_test_init(void)
{
	pgprot_test_dentry = debugfs_create_file("pgprot_test", 0600, NULL, NULL,
						 &pgprot_test_fops);
	return PTR_ERR_OR_ZERO(pgprot_test_dentry);
}
module_init(pgprot_test_init);

static void __exit pgprot_test_exit(void)
{
	debugfs_remove(pgprot_test_dentry);
}
module_exit(pgprot_test_exit);

MODULE_DESCRIPTION("Look at page-table entries of device memory, for tests");
MODULE_LICENSE("GPL");
