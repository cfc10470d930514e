/*
 * QTest testcase for the edu-plus device
 *
 * Copyright (c) 2026 the authors of the edu-plus device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * There is no firmware: the test sets up bridges and BARs itself.  What is
 * expected is in docs/specs/edu-plus.rst.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "libqtest-single.h"
#include "libqos/pci-pc.h"
#include "hw/pci/pci_regs.h"
#include "hw/pci-host/q35.h"
#include "qobject/qdict.h"

#define assert_eq(value, want)  g_assert_cmphex(value, ==, want)

#define IDS                     0x11e81234
#define ID                      0x010000ed

#define COMMAND                 (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
#define MSI_ON                  (PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_ENABLE)

#define REG_ID                  0x00
#define REG_LIVENESS            0x04
#define REG_FACTORIAL           0x08
#define REG_STATUS              0x20
#define  DMA_FAILED             0x100
#define REG_IRQ_STATUS          0x24
#define REG_IRQ_RAISE           0x60
#define REG_IRQ_ACK             0x64
#define REG_DMA_SRC             0x80
#define REG_DMA_DST             0x88
#define REG_DMA_COUNT           0x90
#define REG_DMA_CMD             0x98
#define  FROM_RAM               1
#define  TO_RAM                 3
#define  WITH_IRQ               4

#define BUF                     0x40000
#define BUF_SIZE                (64 * KiB)
#define SCRATCH_SIZE            256

/* RAM of the machine */
#define RAM                     (1 * MiB)
#define ECAM                    MCH_HOST_BRIDGE_PCIEXBAR_DEFAULT

#define VALUE                   0x0123456789abcdefULL
#define OTHER                   0x7766554433221100ULL

typedef struct EduPlus {
    QPCIDevice port;
    QPCIDevice pci;
    uint64_t regs, ram, scratch;
    uint8_t pm, msi, exp, af;
} EduPlus;

typedef struct Test {
    const char *name;
    void (*run)(EduPlus *d, EduPlus *peer);
} Test;

static uint32_t reg(EduPlus *d, uint64_t addr)
{
    return readl(d->regs + addr);
}

static void set_reg(EduPlus *d, uint64_t addr, uint32_t value)
{
    writel(d->regs + addr, value);
}

/* Returns the status register. */
static uint32_t dma(EduPlus *d, uint64_t src, uint64_t dst, uint64_t count,
                    uint32_t cmd)
{
    writeq(d->regs + REG_DMA_SRC, src);
    writeq(d->regs + REG_DMA_DST, dst);
    writeq(d->regs + REG_DMA_COUNT, count);
    set_reg(d, REG_DMA_CMD, cmd);
    return reg(d, REG_STATUS);
}

#define config8(d, addr)             qpci_config_readb(&(d)->pci, addr)
#define config16(d, addr)            qpci_config_readw(&(d)->pci, addr)
#define config32(d, addr)            qpci_config_readl(&(d)->pci, addr)
#define set_config8(d, addr, val)    qpci_config_writeb(&(d)->pci, addr, val)
#define set_config16(d, addr, val)   qpci_config_writew(&(d)->pci, addr, val)
#define set_config32(d, addr, val)   qpci_config_writel(&(d)->pci, addr, val)

static void set_power(EduPlus *d, uint16_t state)
{
    set_config16(d, d->pm + PCI_PM_CTRL, state);
}

static bool intx(EduPlus *d)
{
    return config16(d, PCI_STATUS) & PCI_STATUS_INTERRUPT;
}

static void setup_port(EduPlus *d)
{
    uint64_t mem_limit = d->regs + 2 * MiB - 1;
    uint64_t pref_limit = d->ram + 8 * GiB - 1;
    int bus = d->pci.devfn >> 8;

    qpci_config_writel(&d->port, PCI_PRIMARY_BUS, bus << 8 | bus << 16);
    qpci_config_writew(&d->port, PCI_MEMORY_BASE, d->regs >> 16);
    qpci_config_writew(&d->port, PCI_MEMORY_LIMIT, mem_limit >> 16);
    qpci_config_writew(&d->port, PCI_PREF_MEMORY_BASE, d->ram >> 16);
    qpci_config_writew(&d->port, PCI_PREF_MEMORY_LIMIT, pref_limit >> 16);
    qpci_config_writel(&d->port, PCI_PREF_BASE_UPPER32, d->ram >> 32);
    qpci_config_writel(&d->port, PCI_PREF_LIMIT_UPPER32, pref_limit >> 32);
    qpci_device_enable(&d->port);
}

/* What is necessary after each reset of the device */
static void setup_device(EduPlus *d)
{
    set_config32(d, PCI_BASE_ADDRESS_0, d->regs);
    set_config32(d, PCI_BASE_ADDRESS_1, d->ram);
    set_config32(d, PCI_BASE_ADDRESS_2, d->ram >> 32);
    set_config32(d, PCI_BASE_ADDRESS_3, d->scratch);
    set_config16(d, PCI_COMMAND, COMMAND);
}

/* The device on bus NR, behind the root port 00:NR.0 */
static void setup(EduPlus *d, QPCIBusPC *bus, uint64_t nr)
{
    d->port = (QPCIDevice) { .bus = &bus->bus, .devfn = QPCI_DEVFN(nr, 0) };
    d->pci = (QPCIDevice) { .bus = &bus->bus, .devfn = nr << 8 };
    d->regs = 0xd0000000 + nr * 2 * MiB;
    d->scratch = d->regs + 1 * MiB;
    d->ram = 128 * GiB + nr * 8 * GiB;
    setup_port(d);
    setup_device(d);
    d->pm = qpci_find_capability(&d->pci, PCI_CAP_ID_PM, 0);
    d->msi = qpci_find_capability(&d->pci, PCI_CAP_ID_MSI, 0);
    d->exp = qpci_find_capability(&d->pci, PCI_CAP_ID_EXP, 0);
    d->af = qpci_find_capability(&d->pci, PCI_CAP_ID_AF, 0);
}

static void start(const char *devices)
{
    g_autofree char *args = g_strconcat("-machine q35 -m 64M -nodefaults ",
                                        devices, NULL);

    qtest_start(args);
}

static void test_identity(EduPlus *d, EduPlus *peer)
{
    assert_eq(config32(d, PCI_VENDOR_ID), IDS);
    assert_eq(config32(d, PCI_CLASS_REVISION), 0x00ff0020);
    assert_eq(config8(d, PCI_INTERRUPT_PIN), 1);

    g_assert_cmphex(d->pm, !=, 0);
    assert_eq(config16(d, d->pm + PCI_PM_PMC), 3);
    assert_eq(config16(d, d->pm + PCI_PM_CTRL), PCI_PM_CTRL_NO_SOFT_RESET);
    g_assert_cmphex(d->af, !=, 0);
    assert_eq(config8(d, d->af + PCI_AF_LENGTH), 6);
    assert_eq(config8(d, d->af + PCI_AF_CAP), PCI_AF_CAP_TP | PCI_AF_CAP_FLR);
    assert_eq(config8(d, d->af + PCI_AF_STATUS), 0);
    g_assert_cmphex(d->exp, !=, 0);
    assert_eq(config16(d, d->exp + PCI_EXP_FLAGS), 2);
    g_assert_cmphex(config32(d, d->exp + PCI_EXP_DEVCAP) &
                    PCI_EXP_DEVCAP_FLR, !=, 0);
    assert_eq(config16(d, d->exp + PCI_EXP_DEVSTA) & PCI_EXP_DEVSTA_TRPND, 0);
    g_assert_cmphex(d->msi, !=, 0);
    assert_eq(config16(d, d->msi + PCI_MSI_FLAGS), PCI_MSI_FLAGS_64BIT);
}

static void test_bar_sizes(EduPlus *d, EduPlus *peer)
{
    static const uint32_t want[] = {
        0xfff00000, 0xfc00000c, 0xffffffff, 0xffffff00, 0, 0
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(want); i++) {
        uint8_t bar = PCI_BASE_ADDRESS_0 + 4 * i;

        set_config32(d, bar, 0xffffffff);
        assert_eq(config32(d, bar), want[i]);
    }
}

static void test_registers(EduPlus *d, EduPlus *peer)
{
    assert_eq(reg(d, REG_ID), ID);
    set_reg(d, REG_LIVENESS, 0x12345678);
    assert_eq(reg(d, REG_LIVENESS), 0xedcba987);
    set_reg(d, REG_FACTORIAL, 5);
    assert_eq(reg(d, REG_FACTORIAL), 120);
    set_reg(d, REG_FACTORIAL, 13);
    assert_eq(reg(d, REG_FACTORIAL), (uint32_t)6227020800ULL);
    set_reg(d, REG_FACTORIAL, 0xffffffff);
    assert_eq(reg(d, REG_FACTORIAL), 0);
    set_reg(d, REG_FACTORIAL, 0);
    assert_eq(reg(d, REG_FACTORIAL), 1);
    assert_eq(reg(d, REG_STATUS), 0);
    /* A wrong size, and no register */
    assert_eq(readq(d->regs), UINT64_MAX);
    assert_eq(reg(d, 0x10), 0xffffffff);
}

static void test_ram(EduPlus *d, EduPlus *peer)
{
    uint64_t last = d->ram + 64 * MiB - 4;

    writeq(d->ram, VALUE);
    writel(last, 0xcafe0001);
    assert_eq(readq(d->ram), VALUE);
    assert_eq(readl(last), 0xcafe0001);
}

static void test_scratch(EduPlus *d, EduPlus *peer)
{
    assert_eq(readl(d->scratch), 0);
    writel(d->scratch, 0xa1b2c3d4);
    writeb(d->scratch + SCRATCH_SIZE - 1, 0x5a);
    writeq(d->scratch + 8, VALUE);
    assert_eq(readl(d->scratch), 0xa1b2c3d4);
    assert_eq(readb(d->scratch + SCRATCH_SIZE - 1), 0x5a);
    assert_eq(readq(d->scratch + 8), VALUE);
    assert_eq(readl(d->scratch + 12), VALUE >> 32);
    writew(d->scratch + 2, 0);
    assert_eq(readl(d->scratch), 0xc3d4);
}

static void test_dma(EduPlus *d, EduPlus *peer)
{
    g_autofree uint8_t *out = g_malloc(BUF_SIZE), *in = g_malloc(BUF_SIZE);
    int i;

    for (i = 0; i < BUF_SIZE; i++) {
        out[i] = (i * 0x9e3779b1) >> 24;
    }
    memwrite(RAM, out, BUF_SIZE);
    assert_eq(dma(d, RAM, BUF, BUF_SIZE, FROM_RAM), 0);
    assert_eq(reg(d, REG_DMA_CMD), 0);
    assert_eq(dma(d, BUF, RAM + 2 * BUF_SIZE, BUF_SIZE, TO_RAM), 0);
    assert_eq(reg(d, REG_DMA_CMD), 2);
    memread(RAM + 2 * BUF_SIZE, in, BUF_SIZE);
    g_assert_cmpmem(in, BUF_SIZE, out, BUF_SIZE);

    /* The last byte alone, to an odd address; and nothing, at the end */
    g_assert_cmphex(out[BUF_SIZE - 1], !=, 0);
    dma(d, BUF + BUF_SIZE - 1, RAM + 4 * BUF_SIZE + 1, 1, TO_RAM);
    assert_eq(readl(RAM + 4 * BUF_SIZE), out[BUF_SIZE - 1] << 8);
    assert_eq(dma(d, RAM, BUF + BUF_SIZE, 0, FROM_RAM), 0);
}

/* Nothing must be transferred. */
static void test_dma_bounds(EduPlus *d, EduPlus *peer)
{
    static const struct {
        uint64_t addr, count;
    } cases[] = {
        { BUF - 1, 1 }, { BUF - 1, 2 }, { BUF + BUF_SIZE, 1 },
        { BUF + BUF_SIZE - 1, 2 }, { BUF, BUF_SIZE + 1 }, { BUF + 1, BUF_SIZE },
        { BUF, UINT64_MAX }, { 0, BUF + 1 }, { BUF + 1, UINT64_MAX },
        { UINT64_MAX, 2 }, { -16, BUF + 32 }, { 1ULL << 63 | BUF, 1 },
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t addr = cases[i].addr, count = cases[i].count;

        g_test_message("0x%" PRIx64 " bytes at 0x%" PRIx64, count, addr);
        writeq(RAM, OTHER);
        assert_eq(dma(d, addr, RAM, count, TO_RAM), DMA_FAILED);
        assert_eq(reg(d, REG_DMA_CMD), 2);
        assert_eq(readq(RAM), OTHER);
        assert_eq(dma(d, RAM, addr, count, FROM_RAM), DMA_FAILED);
    }
    assert_eq(dma(d, RAM, BUF, 8, FROM_RAM), 0);
}

/* Load VALUE into the buffer. */
static void fill(EduPlus *d)
{
    writeq(RAM, VALUE);
    assert_eq(dma(d, RAM, BUF, 8, FROM_RAM), 0);
    writeq(RAM, 0);
}

static void test_dma_bar(EduPlus *d, EduPlus *peer)
{
    EduPlus *devices[] = { d, peer };
    int i;

    for (i = 0; i < 2; i++) {
        uint64_t ram = devices[i]->ram;

        writeq(ram, i ? OTHER : VALUE);
        writeq(ram + 4 * KiB, 0);
        assert_eq(dma(d, ram, BUF + 8, 8, FROM_RAM), 0);
        assert_eq(dma(d, BUF + 8, ram + 4 * KiB, 8, TO_RAM), 0);
        assert_eq(readq(ram + 4 * KiB), i ? OTHER : VALUE);
    }
}

static void test_dma_mastering(EduPlus *d, EduPlus *peer)
{
    fill(d);
    writeq(RAM, OTHER);
    set_config16(d, PCI_COMMAND, PCI_COMMAND_MEMORY);
    assert_eq(dma(d, BUF, RAM, 8, TO_RAM), DMA_FAILED);
    assert_eq(readq(RAM), OTHER);
    set_config16(d, PCI_COMMAND, COMMAND);
    assert_eq(dma(d, BUF, RAM, 8, TO_RAM), 0);
    assert_eq(readq(RAM), VALUE);
}

static void test_dma_own_registers(EduPlus *d, EduPlus *peer)
{
    fill(d);
    set_reg(d, REG_LIVENESS, 0);
    assert_eq(dma(d, BUF, d->regs + REG_LIVENESS, 4, TO_RAM), DMA_FAILED);
    assert_eq(reg(d, REG_LIVENESS), 0xffffffff);
    writel(d->scratch, 0x99);
    assert_eq(dma(d, BUF, d->scratch, 4, TO_RAM), DMA_FAILED);
    assert_eq(readl(d->scratch), 0x99);
}

/* The mask of the peer has 28 bits. */
static void test_dma_mask(EduPlus *d, EduPlus *peer)
{
    writeq(RAM, OTHER);
    dma(peer, 0x7000000000000000 + RAM, BUF, 8, FROM_RAM);
    dma(peer, BUF, 0x50000000 + RAM + 8, 8, TO_RAM);
    assert_eq(readq(RAM + 8), OTHER);
    assert_eq(dma(d, BUF, 0x7000000000000000 + RAM, 8, TO_RAM), DMA_FAILED);
}

static void test_intx(EduPlus *d, EduPlus *peer)
{
    g_assert_false(intx(d));
    set_reg(d, REG_IRQ_RAISE, 0x30);
    assert_eq(reg(d, REG_IRQ_STATUS), 0x30);
    g_assert_true(intx(d));
    set_reg(d, REG_IRQ_ACK, 0x10);
    assert_eq(reg(d, REG_IRQ_STATUS), 0x20);
    g_assert_true(intx(d));
    set_reg(d, REG_IRQ_ACK, 0x20);
    g_assert_false(intx(d));

    set_reg(d, REG_STATUS, 0xffffffff);
    assert_eq(reg(d, REG_STATUS), 0x80);
    set_reg(d, REG_FACTORIAL, 3);
    assert_eq(reg(d, REG_IRQ_STATUS), 1);
    set_reg(d, REG_IRQ_ACK, 1);
    set_reg(d, REG_STATUS, 0);

    dma(d, RAM, BUF, 8, FROM_RAM | WITH_IRQ);
    assert_eq(reg(d, REG_IRQ_STATUS), 0x100);
    g_assert_true(intx(d));
    set_reg(d, REG_IRQ_ACK, 0x100);
    dma(d, RAM, BUF, BUF_SIZE + 1, FROM_RAM | WITH_IRQ);
    assert_eq(reg(d, REG_IRQ_STATUS), 0x100);
    set_reg(d, REG_IRQ_ACK, 0x100);
    g_assert_false(intx(d));
}

static void test_msi(EduPlus *d, EduPlus *peer)
{
    uint32_t message = RAM + 512 * KiB;

    writel(message, 0);
    set_config32(d, d->msi + PCI_MSI_ADDRESS_LO, message);
    set_config32(d, d->msi + PCI_MSI_ADDRESS_HI, 0);
    set_config16(d, d->msi + PCI_MSI_DATA_64, 0x4321);
    set_config16(d, d->msi + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE);
    set_reg(d, REG_IRQ_RAISE, 1);
    assert_eq(readl(message), 0x4321);
    g_assert_false(intx(d));
    set_reg(d, REG_IRQ_ACK, 1);
    writel(message, 0);
    dma(d, RAM, BUF, 8, FROM_RAM | WITH_IRQ);
    assert_eq(readl(message), 0x4321);
}

/* Everything has a value before the reset... */
static void dirty(EduPlus *d)
{
    set_reg(d, REG_LIVENESS, 1);
    set_reg(d, REG_FACTORIAL, 4);
    set_reg(d, REG_STATUS, 0x80);
    set_reg(d, REG_IRQ_RAISE, 0x40);
    g_assert_true(intx(d));
    writel(d->scratch, 0x1234);
    writeb(d->scratch + SCRATCH_SIZE - 1, 0x12);
    writeq(d->ram + 3 * 4 * KiB, OTHER);
    qtest_memset(global_qtest, RAM, 0xff, BUF_SIZE);
    dma(d, RAM, BUF, BUF_SIZE, FROM_RAM);
    dma(d, RAM, BUF + 8, 8, FROM_RAM);
    set_config16(d, d->msi + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE);
    assert_eq(reg(d, REG_LIVENESS), 0xfffffffe);
}

/* ... and only the RAM of BAR 1 has one after it. */
static void assert_clear(EduPlus *d)
{
    g_autofree uint8_t *buf = g_malloc(BUF_SIZE);

    assert_eq(reg(d, REG_ID), ID);
    assert_eq(reg(d, REG_LIVENESS), 0);
    assert_eq(reg(d, REG_FACTORIAL), 0);
    assert_eq(reg(d, REG_STATUS), 0);
    assert_eq(reg(d, REG_IRQ_STATUS), 0);
    assert_eq(reg(d, REG_DMA_SRC), 0);
    assert_eq(reg(d, REG_DMA_DST), 0);
    assert_eq(reg(d, REG_DMA_COUNT), 0);
    assert_eq(reg(d, REG_DMA_CMD), 0);
    memread(d->scratch, buf, SCRATCH_SIZE);
    g_assert_true(buffer_is_zero(buf, SCRATCH_SIZE));
    assert_eq(readq(d->ram + 3 * 4 * KiB), OTHER);
    assert_eq(dma(d, BUF, RAM, BUF_SIZE, TO_RAM), 0);
    memread(RAM, buf, BUF_SIZE);
    g_assert_true(buffer_is_zero(buf, BUF_SIZE));
}

static void assert_no_answer(EduPlus *d)
{
    g_assert_cmphex(reg(d, REG_ID), !=, ID);
    g_assert_cmphex(readq(d->ram + 3 * 4 * KiB), !=, OTHER);
}

static void assert_pristine(EduPlus *d)
{
    assert_eq(config16(d, PCI_COMMAND), 0);
    g_assert_false(intx(d));
    assert_eq(config32(d, PCI_BASE_ADDRESS_0), 0);
    assert_eq(config32(d, PCI_BASE_ADDRESS_1), 0xc);
    assert_eq(config32(d, PCI_BASE_ADDRESS_2), 0);
    assert_eq(config32(d, PCI_BASE_ADDRESS_3), 0);
    assert_eq(config16(d, d->msi + PCI_MSI_FLAGS), PCI_MSI_FLAGS_64BIT);
    assert_eq(config16(d, d->pm + PCI_PM_CTRL) & PCI_PM_CTRL_STATE_MASK, 0);
    assert_no_answer(d);
    setup_device(d);
    assert_clear(d);
}

static void flr(EduPlus *d)
{
    uint16_t devctl = config16(d, d->exp + PCI_EXP_DEVCTL);

    set_config16(d, d->exp + PCI_EXP_DEVCTL, devctl | PCI_EXP_DEVCTL_BCR_FLR);
    assert_eq(config16(d, d->exp + PCI_EXP_DEVCTL) & PCI_EXP_DEVCTL_BCR_FLR, 0);
}

static void af_flr(EduPlus *d)
{
    set_config8(d, d->af + PCI_AF_CTRL, PCI_AF_CTRL_FLR);
    assert_eq(config8(d, d->af + PCI_AF_CTRL), 0);
}

static void test_flr(EduPlus *d, EduPlus *peer)
{
    dirty(d);
    flr(d);
    assert_pristine(d);
}

static void test_af_flr(EduPlus *d, EduPlus *peer)
{
    dirty(d);
    set_config8(d, d->af + PCI_AF_CTRL, (uint8_t)~PCI_AF_CTRL_FLR);
    assert_eq(reg(d, REG_LIVENESS), 0xfffffffe);
    af_flr(d);
    assert_pristine(d);
}

static void test_bus_reset(EduPlus *d, EduPlus *peer)
{
    dirty(d);
    qpci_config_writew(&d->port, PCI_BRIDGE_CONTROL, PCI_BRIDGE_CTL_BUS_RESET);
    qpci_config_writew(&d->port, PCI_BRIDGE_CONTROL, 0);
    assert_pristine(d);
}

static void test_system_reset(EduPlus *d, EduPlus *peer)
{
    dirty(d);
    outb(0xcf9, 6);
    qtest_qmp_eventwait(global_qtest, "RESET");
    assert_eq(qpci_config_readl(&d->port, PCI_PRIMARY_BUS), 0);
    setup_port(d);
    assert_pristine(d);
}

static void test_d3hot(EduPlus *d, EduPlus *peer)
{
    dirty(d);
    set_power(d, 3);
    assert_eq(config16(d, d->pm + PCI_PM_CTRL), 0xb);
    assert_no_answer(d);
    writel(d->regs, 0);
    set_reg(d, REG_LIVENESS, 0x5555);
    writeq(d->ram + 3 * 4 * KiB, 0);
    assert_eq(config32(d, PCI_VENDOR_ID), IDS);
    /* D1 does not exist. */
    set_power(d, 1);
    assert_eq(config16(d, d->pm + PCI_PM_CTRL), 0xb);
    set_power(d, 0);
    assert_eq(reg(d, REG_ID), ID);
    assert_eq(reg(d, REG_LIVENESS), 0xfffffffe);
    assert_eq(reg(d, REG_FACTORIAL), 24);
    assert_eq(readl(d->scratch), 0x1234);
    assert_eq(readq(d->ram + 3 * 4 * KiB), OTHER);
    assert_eq(config16(d, PCI_COMMAND), COMMAND);
    assert_eq(config16(d, d->msi + PCI_MSI_FLAGS), MSI_ON);
}

static void test_d3hot_flr(EduPlus *d, EduPlus *peer)
{
    dirty(d);
    set_power(d, 3);
    assert_no_answer(d);
    flr(d);
    assert_pristine(d);
    dirty(d);
    set_power(d, 3);
    af_flr(d);
    assert_pristine(d);
}

/* The peer has no-soft-reset=off. */
static void test_d3hot_soft_reset(EduPlus *d, EduPlus *peer)
{
    assert_eq(config16(peer, peer->pm + PCI_PM_CTRL), 0);
    dirty(peer);
    set_power(peer, 3);
    assert_no_answer(peer);
    assert_eq(config32(peer, PCI_BASE_ADDRESS_0), peer->regs);
    set_power(peer, 0);
    assert_pristine(peer);
}

/* A transfer to the device's own AF_CTRL, in ECAM, must end with the reset. */
static void test_dma_resets_itself(EduPlus *d, EduPlus *peer)
{
    QPCIDevice mch = { .bus = d->pci.bus };
    uint64_t ecam = ECAM + (d->pci.devfn << 12);

    qpci_config_writel(&mch, MCH_HOST_BRIDGE_PCIEXBAR + 4, 0);
    qpci_config_writel(&mch, MCH_HOST_BRIDGE_PCIEXBAR,
                       ECAM | MCH_HOST_BRIDGE_PCIEXBAREN);
    assert_eq(readl(ecam), IDS);
    dirty(d);
    writeb(RAM, PCI_AF_CTRL_FLR);
    dma(d, RAM, BUF, 1, FROM_RAM);
    dma(d, BUF, ecam + d->af + PCI_AF_CTRL, 1, TO_RAM | WITH_IRQ);
    assert_pristine(d);
}

static const Test tests[] = {
    { "identity", test_identity },
    { "bar-sizes", test_bar_sizes },
    { "registers", test_registers },
    { "ram", test_ram },
    { "scratch", test_scratch },
    { "dma/64k-and-one-byte", test_dma },
    { "dma/bounds", test_dma_bounds },
    { "dma/bar", test_dma_bar },
    { "dma/mastering", test_dma_mastering },
    { "dma/own-registers", test_dma_own_registers },
    { "dma/mask", test_dma_mask },
    { "dma/resets-itself", test_dma_resets_itself },
    { "intx", test_intx },
    { "msi", test_msi },
    { "reset/flr", test_flr },
    { "reset/af-flr", test_af_flr },
    { "reset/bus", test_bus_reset },
    { "reset/system", test_system_reset },
    { "d3hot/and-back", test_d3hot },
    { "d3hot/flr", test_d3hot_flr },
    { "d3hot/soft-reset", test_d3hot_soft_reset },
};

static void run(const void *data)
{
    const Test *test = data;
    EduPlus d, peer;
    QPCIBusPC bus;

    start("-device pcie-root-port,addr=1,chassis=1,id=rp1 "
          "-device edu-plus,bus=rp1 "
          "-device pcie-root-port,addr=2,chassis=2,id=rp2 "
          "-device edu-plus,bus=rp2,ram-size=64K,dma_mask=0xfffffff,"
          "no-soft-reset=off");
    qpci_init_pc(&bus, global_qtest, NULL);
    setup(&d, &bus, 1);
    setup(&peer, &bus, 2);
    test->run(&d, &peer);
    qtest_end();
}

static void test_ram_size_refused(void)
{
    static const uint64_t sizes[] = { 0, 2 * KiB, 3 * MiB, 8 * GiB, 5 * GiB };
    QDict *error;
    int i;

    start("-device pcie-root-port,id=rp");
    for (i = 0; i < ARRAY_SIZE(sizes); i++) {
        error = qtest_qmp_assert_failure_ref(global_qtest,
            "{ 'execute': 'device_add', 'arguments': { 'driver': 'edu-plus', "
            "'bus': 'rp', 'ram-size': %" PRIu64 " } }", sizes[i]);
        g_assert_cmpstr(qdict_get_str(error, "desc"), ==,
                        "ram-size must be a power of two from 4 KiB to 4 GiB");
        qobject_unref(error);
    }
    qtest_end();
}

static void test_ram_size_4g(void)
{
    QPCIBusPC bus;
    EduPlus d;

    start("-device pcie-root-port,addr=1,chassis=1,id=rp "
          "-device edu-plus,bus=rp,ram-size=4G");
    qpci_init_pc(&bus, global_qtest, NULL);
    setup(&d, &bus, 1);
    set_config32(&d, PCI_BASE_ADDRESS_1, 0xffffffff);
    set_config32(&d, PCI_BASE_ADDRESS_2, 0xffffffff);
    assert_eq(config32(&d, PCI_BASE_ADDRESS_1), 0xc);
    assert_eq(config32(&d, PCI_BASE_ADDRESS_2), 0xffffffff);
    setup_device(&d);
    writeq(d.ram + 4 * GiB - 8, VALUE);
    assert_eq(readq(d.ram + 4 * GiB - 8), VALUE);
    assert_eq(readq(d.ram), 0);
    qtest_end();
}

int main(int argc, char **argv)
{
    int i;

    g_test_init(&argc, &argv, NULL);
    /* After a failure go on: no test depends on another. */
    g_test_set_nonfatal_assertions();
    for (i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strconcat("edu-plus/", tests[i].name, NULL);

        qtest_add_data_func(path, &tests[i], run);
    }
    qtest_add_func("edu-plus/ram-size/refused", test_ram_size_refused);
    qtest_add_func("edu-plus/ram-size/4g", test_ram_size_4g);
    return g_test_run();
}
