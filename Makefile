# SPDX-License-Identifier: GPL-2.0
# The entry points; the scripts in tools/ do the work.

.NOTPARALLEL:
.PHONY: help run check check-all soak bench tree export shell setup

help:
	@cat tools/help

setup:
	@tools/setup

run: setup
	@tools/tree
	@tools/qemu > /dev/null
	@tools/kernel plain > /dev/null
	@tools/run-demo

check: setup
	@tools/check

check-all: setup
	@tools/check --all

soak: setup
	@tools/check --soak

bench: setup
	@tools/setup bench
	@tools/tree
	@tools/qemu > /dev/null
	@tools/bench $(ROUNDS)

tree: setup
	@tools/tree

export:
	@tools/export

shell: setup
	@tools/tree
	@tools/vm -c $(or $(CELL),plain)
