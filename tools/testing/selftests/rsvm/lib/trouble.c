// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem.h"
#include "svm.h"
#include "trouble.h"

static void migrate(struct trouble *t)
{
	svm_migrate_start(t->g, t->p, t->size, TO_VRAM, NULL, 0);
	usleep(3000);
	svm_migrate_start(t->g, t->p, t->size, TO_SYSTEM, NULL, 0);
	if (t->times % 50 == 0)
		sys_write("/proc/sys/vm/compact_memory", "1");
}

/* ENOMEM: a page was locked for the device; see copy_pte_range(). */
static void fork_once(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void *make_trouble(void *arg)
{
	struct trouble *t = arg;

	for (; !t->stop; t->times++) {
		switch (t->kind) {
		case TROUBLE_SWAP:
			madvise(t->p, t->size, MADV_PAGEOUT);
			break;
		case TROUBLE_MIGRATE:
			migrate(t);
			break;
		case TROUBLE_FORK:
			fork_once();
			usleep(50000);
			break;
		default:
			/* ksmd is at work. */
			break;
		}
		usleep(3000);
	}
	return NULL;
}

int trouble_begin(struct trouble *t, unsigned int kinds, struct gpu *g, void *p, size_t size)
{
	if (kinds & 1 << TROUBLE_KSM && !madvise(p, size, MADV_MERGEABLE))
		ksm_start();
	for (int k = 0; k < TROUBLES; k++) {
		t[k] = (struct trouble){ .kind = k, .g = g, .p = p, .size = size };
		if (!(kinds & 1 << k))
			continue;
		if (pthread_create(&t[k].thread, NULL, make_trouble, &t[k]))
			return -EAGAIN;
		t[k].running = true;
	}
	return 0;
}

void trouble_end(struct trouble *t)
{
	for (int k = 0; k < TROUBLES; k++)
		t[k].stop = 1;
	for (int k = 0; k < TROUBLES; k++)
		if (t[k].running)
			pthread_join(t[k].thread, NULL);
	ksm_stop();
}
