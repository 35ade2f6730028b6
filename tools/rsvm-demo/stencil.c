// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A float stencil: CPU and GPU must agree in every bit. */
#include "demo.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 384
#define HEIGHT 386
#define STEPS 4

static void step_on_cpu(const struct stencil *s)
{
	for (uint64_t y = 1; y < s->height - 1; y++)
		for (uint64_t x = 1; x < s->width - 1; x++)
			s->to[y * s->width + x] = stencil_point(s, x, y);
}

static void fill(float *grid)
{
	for (uint64_t i = 0; i < WIDTH * HEIGHT; i++)
		grid[i] = (float)(i * 7919 % 1000) / 997.0f;
}

void demo_stencil(struct demo *demo)
{
	size_t size = sizeof(float) * WIDTH * HEIGHT;
	float *gpu[2] = { demo_alloc(size), demo_alloc(size) };
	float *cpu[2] = { demo_alloc(size), demo_alloc(size) };
	uint64_t wrong = 0;
	bool ran = true;

	for (int i = 0; i < 2; i++) {
		fill(gpu[i]);
		fill(cpu[i]);
	}
	demo_begin(demo, "float stencil, 384 x 386, 4 steps");
	for (int i = 0; ran && i < STEPS; i++) {
		/* Arguments lie on the stack: any pointer will do. */
		struct stencil s = { gpu[i % 2], gpu[!(i % 2)], WIDTH, HEIGHT, 0.2f };

		ran = demo_run(demo, "stencil", HEIGHT - 2, &s);
		s.from = cpu[i % 2];
		s.to = cpu[!(i % 2)];
		step_on_cpu(&s);
	}
	if (ran) {
		for (uint64_t i = 0; i < WIDTH * HEIGHT; i++)
			wrong += memcmp(&gpu[STEPS % 2][i], &cpu[STEPS % 2][i], sizeof(float)) != 0;
		demo_check(demo, !wrong, "%d floats, %" PRIu64 " differ from the CPU's",
			   WIDTH * HEIGHT, wrong);
	}
	demo_end(demo);
	for (int i = 0; i < 2; i++) {
		free(gpu[i]);
		free(cpu[i]);
	}
}
