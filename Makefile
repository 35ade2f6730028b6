# SPDX-License-Identifier: GPL-2.0
# rsvm: `make help` lists the commands.

SHELL := /bin/bash
KERNEL ?= test
S := scripts
B := $(CURDIR)/build
# The build of the kernel has long stretches for one core.
MAKEFLAGS += -j4
# Several goals are wanted one after the other: clean test.
ifneq ($(word 2,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif

.PHONY: help demo test test-atomics test-debug bench lint vm-run shell overlay kernel vgpu lib selftests root clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; sed -n '/^#   [A-Z_]*=/,/^#$$/s/^# //p' $(S)/vm-run.sh

demo: kernel vgpu lib ## everything from nothing, then a C program's memory is computed on by the GPU
	@VGPU_ARGS="--vram 16M $$VGPU_ARGS" CMD='./rsvm-demo' FILES='$(B)/lib/rsvm-demo' $(S)/vm-run.sh

test: ## all tests; ends with "N passed, N failed, N skipped"
	@$(S)/test.sh

test-atomics: ## each atomic in each kind of memory with each contention; make test pairs them
	@STAGES=atomics $(S)/test.sh

test-debug: ## the selftests with KASAN, lockdep, kmemleak, DMA-API debugging, failing allocations
	@KERNEL=debug $(S)/test.sh

bench: kernel vgpu ## figures beside test_hmm's and memcpy's: build/bench.json, build/bench.svg
	@$(S)/user.sh bench
	@$(S)/bench.sh

lint: root ## rustfmt, clippy, checkpatch, rustdoc warnings, shellcheck
	@$(S)/lint.sh

vm-run: kernel vgpu ## CMD='…' FILES='a b': run a command in the VM, print its output and status
	@$(S)/vm-run.sh

shell: kernel vgpu lib selftests ## the same VM, interactive; tests and demo lie in /root
	@INTERACTIVE=1 FILES="$(B)/lib/rsvm-demo $(B)/selftests $(FILES)" $(S)/vm-run.sh

overlay: ## KDIR=/path/to/linux-7.3: put the project into a kernel tree
	@$(S)/kernel.sh overlay "$(KDIR)"

kernel: root ## the kernel with the driver (KERNEL=test or debug)
	@$(S)/kernel.sh build $(KERNEL)

vgpu: root ## the virtual GPU
	@$(S)/user.sh vgpu

lib: root ## the user library and the demo
	@$(S)/user.sh lib

selftests: root kernel ## the kernel selftests, built for the VM
	@$(S)/user.sh selftests

root: ## the build root alone
	@$(S)/buildroot.sh

clean: ## remove build/; the cache stays
	rm -rf $(B)

export CMD FILES KERNEL VGPU_ARGS VGPUS MEM CPUS TIMEOUT APPEND KDIR KERNEL_TARBALL
