# SPDX-License-Identifier: GPL-2.0
# The entry points; the scripts in tools/ do the work.

.NOTPARALLEL:
.PHONY: help run check check-all soak bench tree export qemu-tree qemu-export shell mail range-diff backports setup clean

# The last LINUX= or TREE= is remembered.
ifeq ($(filter command environment,$(firstword $(origin LINUX)) $(firstword $(origin TREE))),)
-include build/config
else
$(shell mkdir -p build; printf 'LINUX := %s\nTREE := %s\n' '$(LINUX)' '$(TREE)' > build/config)
endif
export LINUX TREE

help:
	@cat tools/help
	@echo
	@echo "The kernel that is tested: $(if $(TREE),TREE=$(TREE),patches/ on $(or $(LINUX),the base of configs/sources))"

setup:
	@tools/make/setup

run: setup
	@tools/queue/tree -k
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
	@tools/queue/tree -k
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

mail: setup
	@tools/make/setup mail
	@tools/queue/tree
	@tools/queue/mail $(QUEUE)

range-diff: setup
	@tools/queue/tree
	@tools/queue/range-diff $(or $(FROM),$(error FROM= names the revision to compare with)) $(QUEUE)

backports: setup
	@tools/queue/tree
	@tools/queue/backports

shell: setup
	@tools/queue/tree -k
	@tools/vm -c $(or $(CELL),plain)

clean:
	@TREE= tools/make/clean
