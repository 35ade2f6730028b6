/* SPDX-License-Identifier: GPL-2.0 */
/* The compiled GPU code, as data of the host program. */
	.section .rodata
	.balign 4096
	.globl rsvm_gpu_code, rsvm_gpu_code_end
rsvm_gpu_code:
	.incbin GPU_CODE
rsvm_gpu_code_end:
	.section .note.GNU-stack,"",@progbits
