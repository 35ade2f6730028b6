/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The GPU program as data of this one. */
	.section .rodata
	.balign 16
	.globl bench_kernels, bench_kernels_end
bench_kernels:
	.incbin KERNELS_ELF
bench_kernels_end:
	.section .note.GNU-stack, "", @progbits
