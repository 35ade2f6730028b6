// SPDX-License-Identifier: GPL-2.0
/*
 * The driver is unbound and the module unloaded at awkward moments; bound and
 * loaded again, it works. Needs root and the device for itself.
 */
#include <dirent.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "lib/rsvm_test.h"

#define DEVICES "/sys/bus/pci/devices/"

FIXTURE(unbind)
{
	char bdf[256];
	char driver[288];	/* directory of the driver in sysfs */
	struct mem m;
	struct gpu g;
};

/* Finds the device that the driver is bound to, and the driver. */
static int find_device(char *bdf, size_t bdf_size, char *driver, size_t driver_size)
{
	DIR *dir = opendir(DEVICES);
	struct dirent *e;
	int ret = -ENODEV;

	while (dir && ret && (e = readdir(dir))) {
		char path[320], target[256];
		ssize_t n;

		snprintf(path, sizeof(path), DEVICES "%s/vendor", e->d_name);
		if (sys_read(path) != 0x1af4)
			continue;
		snprintf(path, sizeof(path), DEVICES "%s/device", e->d_name);
		if (sys_read(path) != 0x10f0)
			continue;
		snprintf(path, sizeof(path), DEVICES "%s/driver", e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = 0;
		snprintf(bdf, bdf_size, "%s", e->d_name);
		snprintf(driver, driver_size, "/sys/bus/pci/drivers/%s",
			 strrchr(target, '/') + 1);
		ret = 0;
	}
	if (dir)
		closedir(dir);
	return ret;
}

static int drive(const char *driver, const char *file, const char *bdf)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", driver, file);
	return sys_write(path, bdf);
}

static int load_module(void)
{
	int fd = open(getenv("RSVM_KO") ?: "/lib/modules/rsvm.ko", O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = syscall(__NR_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);
	return ret;
}

#define UNBIND() ASSERT_OK(drive(self->driver, "unbind", self->bdf))
#define BIND() ASSERT_OK(drive(self->driver, "bind", self->bdf))

FIXTURE_SETUP(unbind)
{
	if (getuid())
		SKIP(return, "needs root");
	ASSERT_OK(find_device(self->bdf, sizeof(self->bdf), self->driver, sizeof(self->driver)));
	ASSERT_OK(mem_get(&self->m, MEM_ANON, 2 * LEAF));
	ASSERT_OK(gpu_open(&self->g));
}

FIXTURE_TEARDOWN(unbind)
{
	gpu_close(&self->g);
	mem_put(&self->m);
	/* Whatever went wrong, the next test finds a device. */
	if (access("/sys/module/rsvm", F_OK))
		load_module();
	drive(self->driver, "bind", self->bdf);
}

static int device_works(void)
{
	uint64_t word = 0;
	struct gpu g;
	int ret = gpu_open(&g);

	if (ret)
		return ret;
	ret = gpu_poke(&g, &word, 42);
	gpu_close(&g);
	return ret ?: word == 42 ? 0 : -EINVAL;
}

/* All calls on a file whose device is gone say so, and closing it is fine. */
TEST_F(unbind, idle)
{
	uint64_t value;
	uint32_t id;
	int event = rsvm_event_open(self->g.fd, self->g.vm, 3);
	struct drm_rsvm_event e;

	ASSERT_GE(event, 0);
	ASSERT_OK(gpu_over(&self->g, GPU_SYM_k_write, self->m.p, PAGE, 512, 1, NULL));
	UNBIND();
	EXPECT_EQ(-ENODEV, device_works());
	EXPECT_EQ(-ENODEV, rsvm_query(self->g.fd, DRM_RSVM_PARAM_VA_BITS, &value));
	EXPECT_EQ(-ENODEV, rsvm_vm_create(self->g.fd, &id));
	EXPECT_EQ(-ENODEV, rsvm_queue_create(self->g.fd, self->g.vm, &id));
	EXPECT_EQ(-ENODEV, rsvm_exec(self->g.fd, self->g.queue, NULL, 0, NULL, 0));
	EXPECT_EQ(-ENODEV, rsvm_event_open(self->g.fd, self->g.vm, 1));
	ASSERT_OK(fcntl(event, F_SETFL, O_NONBLOCK));
	while (read(event, &e, sizeof(e)) > 0)
		continue;
	/* The memory that the GPU wrote is the process's as ever. */
	for (int i = 0; i < 512; i++) {
		ASSERT_EQ(1 + i, *word_at(self->m.p, i * PAGE));
	}
	ASSERT_OK(munmap(self->m.p, LEAF));
	close(event);
	BIND();
	/* The old file stays dead, a new one lives. */
	EXPECT_EQ(-ENODEV, rsvm_exec(self->g.fd, self->g.queue, NULL, 0, NULL, 0));
	EXPECT_OK(device_works());
}

struct waiter {
	struct gpu *g;
	volatile int ret;
};

static void *wait_for_ever(void *arg)
{
	struct waiter *w = arg;

	w->ret = gpu_wait_until(w->g, INT64_MAX);
	return NULL;
}

/* A thread waits for a fence that never comes, then the device goes. */
TEST_F(unbind, endless_wait)
{
	struct waiter w = { .g = &self->g, .ret = 1 };
	pthread_t thread;

	self->g.launched = 1;
	ASSERT_OK(pthread_create(&thread, NULL, wait_for_ever, &w));
	usleep(50000);
	EXPECT_EQ(1, w.ret);
	UNBIND();
	ASSERT_OK(pthread_join(thread, NULL));
	EXPECT_EQ(-ENODEV, w.ret);
	BIND();
	EXPECT_OK(device_works());
}

/* Kernels run, some without an end, some that fault all the time. */
TEST_F(unbind, running_kernels)
{
	for (int r = 0; r < 6; r++) {
		struct gpu_args walk = {
			.addr = (uintptr_t)self->m.p, .rounds = 1024, .other = PAGE,
		};
		struct gpu_args none = {};
		struct waiter w;
		pthread_t thread;
		struct gpu second;

		ASSERT_OK(gpu_open_queue(&second, &self->g));
		ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_walk, &walk, 256));
		ASSERT_OK(gpu_launch(&second, GPU_SYM_k_spin, &none, 16));
		w = (struct waiter){ .g = &self->g, .ret = 1 };
		ASSERT_OK(pthread_create(&thread, NULL, wait_for_ever, &w));
		usleep(r * 3000);
		UNBIND();
		ASSERT_OK(pthread_join(thread, NULL));
		EXPECT_EQ(-ENODEV, w.ret);
		/* The mm changes below what was mapped, with no device there. */
		ASSERT_OK(madvise(self->m.p, 2 * LEAF, MADV_DONTNEED));
		gpu_close(&second);
		if (r & 1)
			BIND();
		gpu_close(&self->g);
		if (!(r & 1))
			BIND();
		EXPECT_OK(device_works());
		ASSERT_OK(gpu_open(&self->g));
	}
}

/* Other processes are killed while the device goes. */
TEST_F(unbind, with_kill)
{
	gpu_close(&self->g);
	for (int r = 0; r < 6; r++) {
		pid_t pids[4];

		for (int i = 0; i < 4; i++) {
			pids[i] = fork();
			ASSERT_GE(pids[i], 0);
			if (!pids[i]) {
				static struct gpu_args args = { .rounds = 1024, .other = PAGE };
				struct gpu g;

				args.addr = (uintptr_t)self->m.p;
				if (!gpu_open(&g) && !gpu_launch(&g, GPU_SYM_k_walk, &args, 64))
					gpu_wait_until(&g, INT64_MAX);
				_exit(0);
			}
		}
		usleep(r * 4000);
		for (int i = 0; i < 2; i++)
			kill(pids[i], SIGKILL);
		UNBIND();
		for (int i = 2; i < 4; i++)
			kill(pids[i], SIGKILL);
		for (int i = 0; i < 4; i++)
			wait_exit(pids[i]);
		BIND();
		EXPECT_OK(device_works());
	}
}

/* The service of a fault is blocked in userfaultfd: unbind does not wait. */
TEST_F(unbind, while_blocked)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)self->m.p, .len = LEAF },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct gpu_args args = { .addr = (uintptr_t)self->m.p };
	struct pollfd p = { .events = POLLIN };

	p.fd = syscall(__NR_userfaultfd, O_NONBLOCK);
	if (p.fd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_OK(ioctl(p.fd, UFFDIO_API, &api));
	ASSERT_OK(ioctl(p.fd, UFFDIO_REGISTER, &reg));
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_read, &args, 1));
	ASSERT_EQ(1, poll(&p, 1, -1));
	UNBIND();
	EXPECT_EQ(-ENODEV, gpu_wait(&self->g));
	BIND();
	EXPECT_OK(device_works());
	/* Lets the old service go, which finds nothing left to do. */
	close(p.fd);
	EXPECT_OK(device_works());
}

struct churn {
	char *p;
	size_t size;
	volatile bool stop;
};

/* Keeps the whole range under invalidation: each change takes its while. */
static void *churn(void *arg)
{
	struct churn *c = arg;

	while (!c->stop)
		for (int prot = 0; prot < 2; prot++)
			mprotect(c->p, c->size, prot ? PROT_READ | PROT_WRITE : PROT_READ);
	return NULL;
}

/* Unloads the module; the very last put of a file may be a moment behind close(). */
static int unload_module(void)
{
	int ret;

	do {
		ret = syscall(__NR_delete_module, "rsvm", O_NONBLOCK) ? -errno : 0;
	} while (ret == -EAGAIN || ret == -EWOULDBLOCK || ret == -EBUSY);
	return ret;
}

/*
 * The module goes right after the last file was closed, again and again, with
 * work under way until then and dozens of intervals to be removed, in memory
 * that changes all the time. Loaded again, it works.
 */
TEST_F(unbind, rmmod_after_last_close)
{
	/* Dozens of nodes, whatever their size, above the memory that changes. */
	const size_t stride = (64ul << 20) + PAGE, places = 64;
	struct churn c = { .size = 192ul << 20 };
	pthread_t thread;
	char *wide;

	gpu_close(&self->g);
	if (access(getenv("RSVM_KO") ?: "/lib/modules/rsvm.ko", R_OK))
		SKIP(return, "the module's file is not there (RSVM_KO=)");
	wide = mmap(NULL, places * stride, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, wide);
	c.p = mmap(NULL, c.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, c.p);
	ASSERT_OK(madvise(c.p, c.size, MADV_NOHUGEPAGE));
	memset(c.p, 1, c.size);
	ASSERT_OK(pthread_create(&thread, NULL, churn, &c));
	for (int r = 0; r < scaled(5); r++) {
		struct gpu_args args = {
			.addr = (uintptr_t)wide, .stride = stride, .rounds = 1, .other = PAGE,
		};
		struct gpu g;

		ASSERT_OK(gpu_open(&g));
		ASSERT_OK(gpu_over(&g, GPU_SYM_k_read, wide, stride, places, 0, NULL));
		ASSERT_OK(gpu_over(&g, GPU_SYM_k_read, c.p, c.size / 4, 4, 0, NULL));
		ASSERT_OK(gpu_launch(&g, GPU_SYM_k_walk, &args, places));
		usleep(r * 2000);
		gpu_close(&g);
		ASSERT_OK(unload_module());
		ASSERT_OK(load_module());
		ASSERT_OK(device_works());
	}
	c.stop = true;
	ASSERT_OK(pthread_join(thread, NULL));
}

static void *give_back(void *page)
{
	madvise(page, PAGE, MADV_DONTNEED);
	return NULL;
}

/*
 * An invalidation is in the middle of the driver's callback when the last file
 * is closed and the module unloaded. Close does not wait for it. Holds: the
 * barrier behind the removal of intervals, which the module's exit waits for;
 * without it the module is gone first, and the callback returns to no code.
 */
TEST_F(unbind, rmmod_during_invalidation)
{
	const char *knob = "inject_invalidation_delay_ms";
	pthread_t thread;
	int64_t end;

	if (access(getenv("RSVM_KO") ?: "/lib/modules/rsvm.ko", R_OK))
		SKIP(return, "the module's file is not there (RSVM_KO=)");
	for (int64_t delay = 2000 * MS;; delay *= 2) {
		ASSERT_OK(gpu_poke(&self->g, self->m.p, 1));
		if (!inject(knob, delay / MS))
			SKIP(return, "this driver has no %s", knob);
		end = now_ns() + delay;
		ASSERT_OK(pthread_create(&thread, NULL, give_back, self->m.p));
		while (!injected(knob) && now_ns() < end)
			continue;
		gpu_close(&self->g);
		if (now_ns() < end)
			break;
		/* Too slow to be there while it lasts: nothing would be tested. */
		ASSERT_OK(pthread_join(thread, NULL));
		ASSERT_OK(gpu_open(&self->g));
	}
	ASSERT_OK(unload_module());
	EXPECT_GE(now_ns(), end);
	ASSERT_OK(pthread_join(thread, NULL));
	ASSERT_OK(load_module());
	ASSERT_OK(device_works());
}

TEST_HARNESS_MAIN
