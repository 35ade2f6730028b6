// SPDX-License-Identifier: GPL-2.0
/* The event file: what it tells, when it wakes, and what it drops. */
#include "lib/rsvm_test.h"

FIXTURE(event)
{
	struct gpu g;
	struct mem m;
	int fd;
};

FIXTURE_SETUP(event)
{
	ASSERT_OK(mem_get(&self->m, MEM_ANON, 3 * LEAF));
	ASSERT_OK(gpu_open(&self->g));
	self->fd = rsvm_event_open(self->g.fd, self->g.vm,
				   1 << DRM_RSVM_EVENT_FAULT | 1 << DRM_RSVM_EVENT_FATAL_FAULT);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(event)
{
	close(self->fd);
	gpu_close(&self->g);
	mem_put(&self->m);
}

/* Whether a record can be read within @ms. */
static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1 && p.revents & POLLIN;
}

static void drain(int fd)
{
	struct drm_rsvm_event e[32];

	while (readable(fd, 0) && read(fd, e, sizeof(e)) > 0)
		continue;
}

/* A served fault names its range; the range holds the page. */
TEST_F(event, served_fault)
{
	uint64_t addr = (uintptr_t)self->m.p + 17 * PAGE;
	struct drm_rsvm_event e;
	int64_t before;
	bool found = false;

	ASSERT_OK(gpu_poke(&self->g, self->m.p + LEAF, 1));
	drain(self->fd);
	before = now_ns();
	ASSERT_OK(gpu_poke(&self->g, (void *)addr, 1));
	while (!found) {
		ASSERT_TRUE(readable(self->fd, 10000));
		ASSERT_EQ(sizeof(e), read(self->fd, &e, sizeof(e)));
		ASSERT_EQ(sizeof(e), e.size);
		ASSERT_EQ(DRM_RSVM_EVENT_FAULT, e.type);
		EXPECT_EQ(0, e.queue_id);
		EXPECT_EQ(0, e.dropped);
		EXPECT_EQ(DRM_RSVM_FAULT_NONE, e.reason);
		EXPECT_GE(e.time_ns, before);
		EXPECT_LE(e.time_ns, now_ns());
		found = e.addr <= addr && addr < e.addr + e.len;
	}
	EXPECT_EQ(DRM_RSVM_ACCESS_WRITE, e.access);
}

TEST_F(event, fatal_fault)
{
	uint64_t addr = (uintptr_t)self->m.p + 3 * PAGE;
	struct drm_rsvm_event e;

	ASSERT_OK(munmap((void *)addr, PAGE));
	ASSERT_EQ(-EIO, gpu_poke(&self->g, (void *)addr, 1));
	do {
		ASSERT_TRUE(readable(self->fd, 10000));
		ASSERT_EQ(sizeof(e), read(self->fd, &e, sizeof(e)));
	} while (e.type != DRM_RSVM_EVENT_FATAL_FAULT);
	EXPECT_EQ(sizeof(e), e.size);
	EXPECT_EQ(addr, e.addr);
	EXPECT_EQ(0, e.len);
	EXPECT_EQ(self->g.queue, e.queue_id);
	EXPECT_EQ(DRM_RSVM_ACCESS_WRITE, e.access);
	EXPECT_EQ(DRM_RSVM_FAULT_NO_MAPPING, e.reason);
	/* It is told once. */
	while (readable(self->fd, 100)) {
		ASSERT_EQ(sizeof(e), read(self->fd, &e, sizeof(e)));
		EXPECT_NE(DRM_RSVM_EVENT_FATAL_FAULT, e.type);
	}
}

/* Only what was asked for comes. */
TEST_F(event, mask)
{
	int fd = rsvm_event_open(self->g.fd, self->g.vm, 1 << DRM_RSVM_EVENT_FATAL_FAULT);
	struct drm_rsvm_event e;

	ASSERT_GE(fd, 0);
	ASSERT_OK(gpu_poke(&self->g, self->m.p + 9 * PAGE, 1));
	EXPECT_TRUE(readable(self->fd, 10000));
	EXPECT_FALSE(readable(fd, 0));
	ASSERT_OK(munmap(self->m.p, PAGE));
	ASSERT_EQ(-EIO, gpu_poke(&self->g, self->m.p, 1));
	ASSERT_TRUE(readable(fd, 10000));
	ASSERT_EQ(sizeof(e), read(fd, &e, sizeof(e)));
	EXPECT_EQ(DRM_RSVM_EVENT_FATAL_FAULT, e.type);
	close(fd);
}

/* The reader who falls behind loses records, and is told how many. */
TEST_F(event, overflow)
{
	const size_t faults = 1400;	/* more than any ring of records holds */
	uint64_t dropped = 0, records = 0;
	struct drm_rsvm_event e;

	/* Pages that nobody holds, one fault each. */
	for (size_t i = 0; i < faults; i++) {
		ASSERT_OK(gpu_poke(&self->g, self->m.p + i * PAGE, i));
	}
	while (readable(self->fd, 0)) {
		ASSERT_EQ(sizeof(e), read(self->fd, &e, sizeof(e)));
		dropped += e.dropped;
		records++;
	}
	EXPECT_GT(records, 0);
	EXPECT_GT(dropped, 0);
	EXPECT_GE(records + dropped, faults);
}

/* A reader that sleeps is woken by the record, and by a signal. */
static void nothing(int sig)
{
	(void)sig;
}

TEST_F(event, blocking_read)
{
	struct sigaction act = { .sa_handler = nothing };
	struct drm_rsvm_event e;
	pid_t pid;

	drain(self->fd);
	sigaction(SIGUSR1, &act, NULL);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		for (int i = 0; i < 20; i++) {
			usleep(20000);
			kill(getppid(), SIGUSR1);
		}
		_exit(0);
	}
	EXPECT_EQ(-1, read(self->fd, &e, sizeof(e)));
	EXPECT_EQ(EINTR, errno);
	signal(SIGUSR1, SIG_IGN);
	EXPECT_EQ(0, wait_exit(pid));
	ASSERT_OK(gpu_poke(&self->g, self->m.p, 1));
	EXPECT_EQ(sizeof(e), read(self->fd, &e, sizeof(e)));
}

/* The file outlives mirror and device file; then nothing comes any more. */
TEST_F(event, outlives_the_mirror)
{
	struct drm_rsvm_event e;

	ASSERT_OK(rsvm_vm_destroy(self->g.fd, self->g.vm));
	ASSERT_OK(fcntl(self->fd, F_SETFL, O_NONBLOCK));
	drain(self->fd);
	gpu_close(&self->g);
	EXPECT_TRUE(readable(self->fd, 10000));
	EXPECT_EQ(0, read(self->fd, &e, sizeof(e)));
}

TEST_HARNESS_MAIN
