# SPDX-License-Identifier: GPL-2.0
# The entry points; the scripts in tools/ do the work.

.NOTPARALLEL:
.PHONY: help run check check-all soak bench tree export qemu-tree qemu-export shell setup clean

help:
	@cat tools/help

setup:
	@tools/make/setup

run: setup
	@tools/queue/tree
	@tools/make/qemu > /dev/null
	@tools/make/kernel plain > /dev/null
	@demo/run-demo

check: setup
	@tools/check

check-all: setup
	@tools/check --all

soak: setup
	@tools/check --soak

bench: setup
	@tools/make/setup bench
	@tools/queue/tree
	@tools/make/qemu > /dev/null
	@bench/run-bench $(ROUNDS)

tree: setup
	@tools/queue/tree

export:
	@tools/queue/export

qemu-tree: setup
	@tools/make/qemu-tree

qemu-export:
	@tools/make/qemu-tree --export

shell: setup
	@tools/queue/tree
	@tools/vm -c $(or $(CELL),plain)

clean:
	@tools/make/clean
