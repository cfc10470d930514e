/*
 * QEMU educational PCI Express device with a RAM BAR, power management and
 * function level reset
 *
 * Copyright (c) 2026 the authors of the edu-plus device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The register BAR speaks the protocol of the edu device, see
 * docs/specs/edu.rst.  What edu-plus adds is in docs/specs/edu-plus.rst.
 *
 * Everything that a register write starts is over when the write returns:
 * there is no thread, no timer and no bottom half, so a guest that counts
 * instructions sees the same numbers in every run.
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/host-utils.h"
#include "qemu/log.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "hw/pci/msi.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "qom/object.h"

#define TYPE_EDU_PLUS "edu-plus"
OBJECT_DECLARE_SIMPLE_TYPE(EduPlusState, EDU_PLUS)

/* The BARs.  The RAM BAR has 64 bits and takes up BAR 2 as well. */
#define REGS_BAR                0
#define RAM_BAR                 1
#define SCRATCH_BAR             3

#define REGS_SIZE               (1 * MiB)
#define RAM_SIZE_DEFAULT        (64 * MiB)
#define RAM_SIZE_MIN            (4 * KiB)
#define RAM_SIZE_MAX            (4 * GiB)
/* Smaller than any page, which is what this BAR is for. */
#define SCRATCH_SIZE            256

#define REG_ID                  0x00
#define REG_LIVENESS            0x04
#define REG_FACTORIAL           0x08
#define REG_STATUS              0x20
#define  STATUS_IRQ_FACTORIAL   BIT(7)
#define  STATUS_DMA_FAILED      BIT(8)
#define REG_IRQ_STATUS          0x24
#define  IRQ_FACTORIAL          BIT(0)
#define  IRQ_DMA                BIT(8)
#define REG_IRQ_RAISE           0x60
#define REG_IRQ_ACK             0x64
/* From here on, registers have 64 bits. */
#define REG_DMA_SRC             0x80
#define REG_DMA_DST             0x88
#define REG_DMA_COUNT           0x90
#define REG_DMA_CMD             0x98
#define  DMA_CMD_RUN            BIT(0)
#define  DMA_CMD_TO_HOST        BIT(1)
#define  DMA_CMD_IRQ            BIT(2)

#define EDU_PLUS_ID             0x010000ed

/* Where DMA commands see the buffer; it is not readable through the BAR. */
#define DMA_BUF_ADDR            0x40000
#define DMA_BUF_SIZE            (64 * KiB)

struct EduPlusState {
    PCIDevice parent_obj;

    MemoryRegion regs;
    MemoryRegion ram;
    MemoryRegion scratch_io;

    /* Properties */
    uint64_t ram_size;
    uint64_t dma_mask;
    bool no_soft_reset;

    /* Offset of the Advanced Features capability */
    uint8_t af_cap;

    /* All that follows is cleared by a reset. */
    uint32_t liveness;
    uint32_t factorial;
    uint32_t status;
    uint32_t irq_status;
    uint64_t dma_src;
    uint64_t dma_dst;
    uint64_t dma_count;
    uint64_t dma_cmd;
    uint8_t dma_buf[DMA_BUF_SIZE];
    uint8_t scratch[SCRATCH_SIZE];
};

static void edu_plus_raise_irq(EduPlusState *s, uint32_t bits)
{
    PCIDevice *pdev = PCI_DEVICE(s);

    s->irq_status |= bits;
    if (!s->irq_status) {
        return;
    }

    if (msi_enabled(pdev)) {
        msi_notify(pdev, 0);
    } else {
        pci_set_irq(pdev, 1);
    }
}

static void edu_plus_ack_irq(EduPlusState *s, uint32_t bits)
{
    s->irq_status &= ~bits;
    if (!s->irq_status) {
        pci_set_irq(PCI_DEVICE(s), 0);
    }
}

/* The value modulo 2^32, which is 0 from 34! on. */
static uint32_t edu_plus_factorial(uint32_t n)
{
    uint32_t result = 1;

    while (n > 1 && result) {
        result *= n--;
    }
    return result;
}

/* The part of the DMA buffer that a command names, or NULL. */
static uint8_t *edu_plus_dma_buf(EduPlusState *s, uint64_t addr, uint64_t len)
{
    uint64_t offset = addr - DMA_BUF_ADDR;

    if (addr < DMA_BUF_ADDR || offset > DMA_BUF_SIZE ||
        len > DMA_BUF_SIZE - offset) {
        qemu_log_mask(LOG_GUEST_ERROR,
                      "edu-plus: DMA of 0x%" PRIx64 " bytes at 0x%" PRIx64
                      " is outside the buffer\n", len, addr);
        return NULL;
    }
    return s->dma_buf + offset;
}

static dma_addr_t edu_plus_dma_addr(EduPlusState *s, uint64_t addr)
{
    if (addr & ~s->dma_mask) {
        qemu_log_mask(LOG_GUEST_ERROR,
                      "edu-plus: DMA address 0x%" PRIx64
                      " clamped to 0x%" PRIx64 "\n",
                      addr, addr & s->dma_mask);
    }
    return addr & s->dma_mask;
}

/*
 * DMA_CMD_RUN stays set while data moves.  The memory core already refuses
 * a transfer that reaches a register of this very device.  But one that hits
 * the device's configuration space, through ECAM, can reset the device; then
 * the command is gone when the transfer returns, and nothing must follow it.
 */
static void edu_plus_dma(EduPlusState *s, uint64_t cmd)
{
    PCIDevice *pdev = PCI_DEVICE(s);
    MemTxResult result = MEMTX_ERROR;
    uint8_t *buf;

    s->dma_cmd = cmd;
    s->status &= ~STATUS_DMA_FAILED;

    if (cmd & DMA_CMD_TO_HOST) {
        buf = edu_plus_dma_buf(s, s->dma_src, s->dma_count);
        if (buf) {
            result = pci_dma_write(pdev, edu_plus_dma_addr(s, s->dma_dst),
                                   buf, s->dma_count);
        }
    } else {
        buf = edu_plus_dma_buf(s, s->dma_dst, s->dma_count);
        if (buf) {
            result = pci_dma_read(pdev, edu_plus_dma_addr(s, s->dma_src),
                                  buf, s->dma_count);
        }
    }

    if (!(s->dma_cmd & DMA_CMD_RUN)) {
        return;
    }

    s->dma_cmd &= ~DMA_CMD_RUN;
    if (result != MEMTX_OK) {
        s->status |= STATUS_DMA_FAILED;
    }
    if (s->dma_cmd & DMA_CMD_IRQ) {
        edu_plus_raise_irq(s, IRQ_DMA);
    }
}

/* As in edu: 4 bytes, and from the DMA registers on 4 or 8. */
static bool edu_plus_access_ok(hwaddr addr, unsigned size)
{
    return size == 4 || (size == 8 && addr >= REG_DMA_SRC);
}

static uint64_t edu_plus_regs_read(void *opaque, hwaddr addr, unsigned size)
{
    EduPlusState *s = opaque;

    if (!edu_plus_access_ok(addr, size)) {
        qemu_log_mask(LOG_GUEST_ERROR,
                      "edu-plus: read of %u bytes at 0x%" HWADDR_PRIx "\n",
                      size, addr);
        return ~0ULL;
    }

    switch (addr) {
    case REG_ID:
        return EDU_PLUS_ID;
    case REG_LIVENESS:
        return s->liveness;
    case REG_FACTORIAL:
        return s->factorial;
    case REG_STATUS:
        return s->status;
    case REG_IRQ_STATUS:
        return s->irq_status;
    case REG_DMA_SRC:
        return s->dma_src;
    case REG_DMA_DST:
        return s->dma_dst;
    case REG_DMA_COUNT:
        return s->dma_count;
    case REG_DMA_CMD:
        return s->dma_cmd;
    default:
        return ~0ULL;
    }
}

static void edu_plus_regs_write(void *opaque, hwaddr addr, uint64_t val,
                                unsigned size)
{
    EduPlusState *s = opaque;

    if (!edu_plus_access_ok(addr, size)) {
        qemu_log_mask(LOG_GUEST_ERROR,
                      "edu-plus: write of %u bytes at 0x%" HWADDR_PRIx "\n",
                      size, addr);
        return;
    }

    switch (addr) {
    case REG_LIVENESS:
        s->liveness = ~val;
        break;
    case REG_FACTORIAL:
        s->factorial = edu_plus_factorial(val);
        if (s->status & STATUS_IRQ_FACTORIAL) {
            edu_plus_raise_irq(s, IRQ_FACTORIAL);
        }
        break;
    case REG_STATUS:
        s->status &= ~STATUS_IRQ_FACTORIAL;
        s->status |= val & STATUS_IRQ_FACTORIAL;
        break;
    case REG_IRQ_RAISE:
        edu_plus_raise_irq(s, val);
        break;
    case REG_IRQ_ACK:
        edu_plus_ack_irq(s, val);
        break;
    case REG_DMA_SRC:
        s->dma_src = val;
        break;
    case REG_DMA_DST:
        s->dma_dst = val;
        break;
    case REG_DMA_COUNT:
        s->dma_count = val;
        break;
    case REG_DMA_CMD:
        if (val & DMA_CMD_RUN) {
            edu_plus_dma(s, val);
        }
        break;
    }
}

static const MemoryRegionOps edu_plus_regs_ops = {
    .read = edu_plus_regs_read,
    .write = edu_plus_regs_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 4,
        .max_access_size = 8,
    },
    .impl = {
        .min_access_size = 4,
        .max_access_size = 8,
    },
};

static uint64_t edu_plus_scratch_read(void *opaque, hwaddr addr, unsigned size)
{
    EduPlusState *s = opaque;

    return ldn_le_p(s->scratch + addr, size);
}

static void edu_plus_scratch_write(void *opaque, hwaddr addr, uint64_t val,
                                   unsigned size)
{
    EduPlusState *s = opaque;

    stn_le_p(s->scratch + addr, size, val);
}

static const MemoryRegionOps edu_plus_scratch_ops = {
    .read = edu_plus_scratch_read,
    .write = edu_plus_scratch_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 1,
        .max_access_size = 8,
    },
    .impl = {
        .min_access_size = 1,
        .max_access_size = 8,
    },
};

/* The content of the RAM BAR stays: a driver may count on it. */
static void edu_plus_reset_hold(Object *obj, ResetType type)
{
    EduPlusState *s = EDU_PLUS(obj);

    s->liveness = 0;
    s->factorial = 0;
    s->status = 0;
    s->irq_status = 0;
    s->dma_src = 0;
    s->dma_dst = 0;
    s->dma_count = 0;
    s->dma_cmd = 0;
    memset(s->dma_buf, 0, sizeof(s->dma_buf));
    memset(s->scratch, 0, sizeof(s->scratch));
}

static uint16_t edu_plus_power_state(PCIDevice *pdev)
{
    return pci_get_word(pdev->config + pdev->pm_cap + PCI_PM_CTRL) &
           PCI_PM_CTRL_STATE_MASK;
}

static void edu_plus_write_config(PCIDevice *pdev, uint32_t addr,
                                  uint32_t val, int len)
{
    EduPlusState *s = EDU_PLUS(pdev);
    uint8_t *af_ctrl = pdev->config + s->af_cap + PCI_AF_CTRL;
    uint16_t old_state = edu_plus_power_state(pdev);

    pci_default_write_config(pdev, addr, val, len);
    pcie_cap_flr_write_config(pdev, addr, val, len);

    /* As for the FLR bit of PCI Express: writable, but it reads as zero. */
    if (*af_ctrl & PCI_AF_CTRL_FLR) {
        *af_ctrl &= ~PCI_AF_CTRL_FLR;
        pci_device_reset(pdev);
    }

    /* Without No_Soft_Reset, waking up is an internal reset. */
    if (old_state && !edu_plus_power_state(pdev) && !s->no_soft_reset) {
        pci_device_reset(pdev);
    }
}

static int edu_plus_add_pm_capability(EduPlusState *s, Error **errp)
{
    PCIDevice *pdev = PCI_DEVICE(s);
    int cap = pci_pm_init(pdev, 0, errp);

    if (cap < 0) {
        return cap;
    }

    /* D0 and D3hot, no PME */
    pci_set_word(pdev->config + cap + PCI_PM_PMC, PCI_PM_CAP_VER_1_2);
    pci_set_word(pdev->config + cap + PCI_PM_CTRL,
                 s->no_soft_reset ? PCI_PM_CTRL_NO_SOFT_RESET : 0);
    pci_set_word(pdev->wmask + cap + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK);
    return 0;
}

static int edu_plus_add_af_capability(EduPlusState *s, Error **errp)
{
    PCIDevice *pdev = PCI_DEVICE(s);
    int cap = pci_add_capability(pdev, PCI_CAP_ID_AF, 0, PCI_CAP_AF_SIZEOF,
                                 errp);

    if (cap < 0) {
        return cap;
    }

    s->af_cap = cap;
    pdev->config[cap + PCI_AF_LENGTH] = PCI_CAP_AF_SIZEOF;
    pdev->config[cap + PCI_AF_CAP] = PCI_AF_CAP_TP | PCI_AF_CAP_FLR;
    pdev->wmask[cap + PCI_AF_CTRL] = PCI_AF_CTRL_FLR;
    return 0;
}

static void edu_plus_realize(PCIDevice *pdev, Error **errp)
{
    EduPlusState *s = EDU_PLUS(pdev);

    if (!is_power_of_2(s->ram_size) ||
        s->ram_size < RAM_SIZE_MIN || s->ram_size > RAM_SIZE_MAX) {
        error_setg(errp, "ram-size must be a power of two from 4 KiB to 4 GiB");
        return;
    }

    if (!memory_region_init_ram(&s->ram, OBJECT(s), "edu-plus-ram",
                                s->ram_size, errp)) {
        return;
    }
    memory_region_init_io(&s->regs, OBJECT(s), &edu_plus_regs_ops, s,
                          "edu-plus-regs", REGS_SIZE);
    memory_region_init_io(&s->scratch_io, OBJECT(s), &edu_plus_scratch_ops, s,
                          "edu-plus-scratch", SCRATCH_SIZE);

    pci_config_set_interrupt_pin(pdev->config, 1);

    if (edu_plus_add_pm_capability(s, errp) < 0 ||
        edu_plus_add_af_capability(s, errp) < 0) {
        return;
    }
    if (pcie_endpoint_cap_init(pdev, 0) < 0) {
        error_setg(errp, "no room for the PCI Express capability");
        return;
    }
    pcie_cap_flr_init(pdev);
    if (msi_init(pdev, 0, 1, true, false, errp) < 0) {
        pcie_cap_exit(pdev);
        return;
    }

    pci_register_bar(pdev, REGS_BAR, PCI_BASE_ADDRESS_SPACE_MEMORY, &s->regs);
    pci_register_bar(pdev, RAM_BAR,
                     PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64 |
                     PCI_BASE_ADDRESS_MEM_PREFETCH, &s->ram);
    pci_register_bar(pdev, SCRATCH_BAR, PCI_BASE_ADDRESS_SPACE_MEMORY,
                     &s->scratch_io);
}

static void edu_plus_exit(PCIDevice *pdev)
{
    msi_uninit(pdev);
    pcie_cap_exit(pdev);
}

static const VMStateDescription vmstate_edu_plus = {
    .name = TYPE_EDU_PLUS,
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj, EduPlusState),
        VMSTATE_UINT32(liveness, EduPlusState),
        VMSTATE_UINT32(factorial, EduPlusState),
        VMSTATE_UINT32(status, EduPlusState),
        VMSTATE_UINT32(irq_status, EduPlusState),
        VMSTATE_UINT64(dma_src, EduPlusState),
        VMSTATE_UINT64(dma_dst, EduPlusState),
        VMSTATE_UINT64(dma_count, EduPlusState),
        VMSTATE_UINT64(dma_cmd, EduPlusState),
        VMSTATE_UINT8_ARRAY(dma_buf, EduPlusState, DMA_BUF_SIZE),
        VMSTATE_UINT8_ARRAY(scratch, EduPlusState, SCRATCH_SIZE),
        VMSTATE_END_OF_LIST()
    }
};

static const Property edu_plus_properties[] = {
    DEFINE_PROP_SIZE("ram-size", EduPlusState, ram_size, RAM_SIZE_DEFAULT),
    DEFINE_PROP_UINT64("dma_mask", EduPlusState, dma_mask, UINT64_MAX),
    DEFINE_PROP_BOOL("no-soft-reset", EduPlusState, no_soft_reset, true),
};

static void edu_plus_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);

    k->realize = edu_plus_realize;
    k->exit = edu_plus_exit;
    k->config_write = edu_plus_write_config;
    k->vendor_id = PCI_VENDOR_ID_QEMU;
    k->device_id = 0x11e8;
    k->revision = 0x20;
    k->class_id = PCI_CLASS_OTHERS;

    rc->phases.hold = edu_plus_reset_hold;

    dc->desc = "Educational PCIe device with RAM BAR, D3hot and FLR";
    dc->vmsd = &vmstate_edu_plus;
    device_class_set_props(dc, edu_plus_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo edu_plus_info = {
    .name          = TYPE_EDU_PLUS,
    .parent        = TYPE_PCI_DEVICE,
    .instance_size = sizeof(EduPlusState),
    .class_init    = edu_plus_class_init,
    .interfaces    = (InterfaceInfo[]) {
        { INTERFACE_PCIE_DEVICE },
        { },
    },
};

static void edu_plus_register_types(void)
{
    type_register_static(&edu_plus_info);
}
type_init(edu_plus_register_types)
