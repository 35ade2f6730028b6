/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The GPU program as data of this one. */
	.section .rodata
	.balign 16
	.globl demo_kernels, demo_kernels_end
demo_kernels:
	.incbin KERNELS_ELF
demo_kernels_end:
	.section .note.GNU-stack, "", @progbits
