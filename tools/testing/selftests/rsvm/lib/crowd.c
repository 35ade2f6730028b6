// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "crowd.h"

/* Members and what they are given lie in pages that the words are not in. */
#define MEMBERS_SIZE	8192
_Static_assert(CROWD_MEMBERS * sizeof(struct participant) <= MEMBERS_SIZE, "room for all");

#define ON_CPU(name, type, bits) \
static void name##_##bits(void *word, struct participant *p, const struct rounds *r) \
{ \
	crowd_##name##_##bits(word, p, r); \
}

ATOMIC_OPS(ON_CPU)

#define ENTRY(name, type, bits) \
	{ #name "_" #bits, bits, GPU_SYM_k_##name##_##bits, name##_##bits },
static const struct crowd_op ops[] = { ATOMIC_OPS(ENTRY) {} };

const struct crowd_op *crowd_op(const char *name)
{
	for (const struct crowd_op *op = ops; op->name; op++)
		if (!strcmp(op->name, name))
			return op;
	return NULL;
}

static bool is(const struct crowd *c, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(c->op->name, name, len) && c->op->name[len] == '_';
}

/* Sign-extended, as the signed ones compare. */
static int64_t word_of(const struct crowd *c, int k)
{
	void *p = c->words + k * c->stride;

	switch (c->op->bits) {
	case 8:
		return *(volatile int8_t *)p;
	case 16:
		return *(volatile int16_t *)p;
	case 32:
		return *(volatile int32_t *)p;
	default:
		return *(volatile int64_t *)p;
	}
}

/* What fits into a word of this crowd, sign-extended. */
static int64_t narrow(const struct crowd *c, uint64_t value)
{
	int unused = 64 - c->op->bits;

	return (int64_t)(value << unused) >> unused;
}

/* A token that is no member's. */
#define WORD_TOKEN 100

/* On the way the signed ones come by zero, the others by the sign bit. */
static int64_t first_value(const struct crowd *c)
{
	uint64_t half = 1ull << (c->op->bits - 1);

	if (is(c, "and"))
		return -1;
	if (is(c, "xchg"))
		return WORD_TOKEN;
	if (is(c, "min"))
		return 500;
	if (is(c, "max"))
		return -500;
	if (is(c, "minu"))
		return narrow(c, half + 500);
	if (is(c, "maxu"))
		return narrow(c, half - 500);
	return 0;
}

static int members(const struct crowd *c)
{
	return c->harts + c->threads;
}

void crowd_prepare(struct crowd *c)
{
	int64_t value = first_value(c);

	for (int k = 0; k < (c->stride ? members(c) : 1); k++)
		memcpy(c->words + k * c->stride, &value, c->op->bits / 8);
}

static void *member(void *arg)
{
	struct participant *p = arg;
	/* The crowd is behind its members. */
	struct crowd *c = *(struct crowd **)((char *)p - p->id * sizeof(*p) + MEMBERS_SIZE);

	c->op->on_cpu(c->words + p->id * c->stride, p, &c->limits);
	return NULL;
}

int crowd_start(struct crowd *c)
{
	void *m = mmap(NULL, MEMBERS_SIZE + 4096, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED)
		return -ENOMEM;
	*(struct crowd **)((char *)m + MEMBERS_SIZE) = c;
	c->members = m;
	c->stop = 0;
	c->limits = (struct rounds){ c->rounds, c->endless ? &c->stop : NULL };
	for (int k = 0; k < members(c); k++)
		c->members[k] = (struct participant){
			.id = k,
			.held = is(c, "xchg") ? k + 1 : first_value(c),
		};
	for (int k = c->harts; k < members(c); k++)
		if (pthread_create(&c->running[k], NULL, member, &c->members[k]))
			return -EAGAIN;
	c->args = (struct gpu_args){
		.addr = (uintptr_t)c->words,
		.stride = c->stride,
		.other = (uintptr_t)c->members,
		.rounds = c->rounds,
		.stop = c->limits.stop,
	};
	return c->harts ? gpu_launch(c->g, c->op->kernel, &c->args, c->harts) : 0;
}

static uint64_t done_by(const struct crowd *c, int from, int to)
{
	uint64_t sum = 0;

	for (int k = from; k < to; k++)
		sum += c->members[k].done;
	return sum;
}

uint64_t crowd_done_by_gpu(const struct crowd *c)
{
	return done_by(c, 0, c->harts);
}

uint64_t crowd_done_by_cpu(const struct crowd *c)
{
	return done_by(c, c->harts, members(c));
}

int crowd_end(struct crowd *c)
{
	c->stop = 1;
	for (int k = c->harts; k < members(c); k++)
		pthread_join(c->running[k], NULL);
	return c->harts ? gpu_wait(c->g) : 0;
}

/* What the word of members @from to @to must be; xchg is no such sum. */
static int64_t expected(const struct crowd *c, int from, int to)
{
	uint64_t value = first_value(c);

	for (int k = from; k < to; k++) {
		const struct participant *p = &c->members[k];
		int64_t held = narrow(c, p->held);

		if (is(c, "add"))
			value += (2 * p->id + 1) * p->done;
		else if (is(c, "cas"))
			value += p->done;
		else if (is(c, "xor"))
			value ^= (p->done & 1) << p->id % c->op->bits;
		else if (is(c, "min") && held < (int64_t)value)
			value = held;
		else if (is(c, "max") && held > (int64_t)value)
			value = held;
		else if (is(c, "minu") && (uint64_t)held < value)
			value = held;
		else if (is(c, "maxu") && (uint64_t)held > value)
			value = held;
	}
	return narrow(c, value);
}

/* Tokens that are not there just once: in the word or with a member. */
static uint64_t tokens_wrong(const struct crowd *c, int from, int to)
{
	int seen[WORD_TOKEN + 1] = {};
	uint64_t wrong = 0;

	for (int k = from; k <= to; k++) {
		uint64_t token = k < to ? c->members[k].held : (uint64_t)word_of(c, from);

		if (token > WORD_TOKEN)
			wrong++;
		else
			seen[token]++;
	}
	for (int k = from; k < to; k++)
		wrong += seen[k + 1] != 1;
	return wrong + (seen[WORD_TOKEN] != 1);
}

static uint64_t word_errors(const struct crowd *c, int from, int to)
{
	int64_t want = expected(c, from, to), have = word_of(c, from);

	if (is(c, "xchg"))
		return tokens_wrong(c, from, to);
	if (want == have)
		return 0;
	printf("# %s: word %d is %#llx, not %#llx\n", c->op->name, from,
	       (unsigned long long)have, (unsigned long long)want);
	return 1;
}

uint64_t crowd_errors(struct crowd *c)
{
	uint64_t errors = 0;
	int n = members(c);

	for (int k = 0; k < n; k++)
		errors += c->members[k].errors;
	if (!c->stride)
		errors += word_errors(c, 0, n);
	for (int k = 0; c->stride && k < n; k++)
		errors += word_errors(c, k, k + 1);
	munmap(c->members, MEMBERS_SIZE + 4096);
	c->members = NULL;
	return errors;
}
