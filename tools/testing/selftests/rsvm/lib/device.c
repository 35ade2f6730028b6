// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device.h"
#include "gpu.h"
#include "mem.h"
#include "stats.h"

#define DEVICES "/sys/bus/pci/devices/"
#define HOLD "/sys/kernel/debug/rsvm_hold/"
#define BAR0_SIZE (16ul << 20)

static int map_registers(struct device *d)
{
	char path[320];
	void *p;
	int fd;

	snprintf(path, sizeof(path), DEVICES "%s/resource0", d->bdf);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	p = mmap(NULL, BAR0_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return -errno;
	d->bar0 = p;
	return 0;
}

int device_find(struct device *d)
{
	DIR *dir = opendir(DEVICES);
	struct dirent *e;
	int ret = -ENODEV;

	d->bar0 = NULL;
	while (dir && ret && (e = readdir(dir))) {
		char path[320], target[256];
		ssize_t n;

		snprintf(path, sizeof(path), DEVICES "%s/driver", e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = 0;
		if (strcmp(strrchr(target, '/') + 1, "rsvm"))
			continue;
		snprintf(d->bdf, sizeof(d->bdf), "%s", e->d_name);
		snprintf(d->driver, sizeof(d->driver), "/sys/bus/pci/drivers/rsvm");
		ret = map_registers(d);
	}
	if (dir)
		closedir(dir);
	return ret;
}

void device_put(struct device *d)
{
	if (d->bar0)
		munmap((void *)d->bar0, BAR0_SIZE);
	d->bar0 = NULL;
}

static int drive(const struct device *d, const char *file)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", d->driver, file);
	return sys_write(path, d->bdf);
}

int device_bind(const struct device *d)
{
	return drive(d, "bind");
}

int device_unbind(const struct device *d)
{
	return drive(d, "unbind");
}

/* The file of a module: beside this kernel's others, or where @variable says. */
static int load(const char *variable, const char *path)
{
	int fd = open(getenv(variable) ?: path, O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = syscall(__NR_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);
	return ret;
}

int driver_load(void)
{
	return load("RSVM_KO", "/lib/modules/rsvm.ko");
}

int driver_unload(void)
{
	struct guard guard = {};
	int ret;

	do {
		ret = syscall(__NR_delete_module, "rsvm", O_NONBLOCK) ? -errno : 0;
	} while ((ret == -EAGAIN || ret == -EBUSY) && !guard_over(&guard) && !usleep(1000));
	return ret;
}

int device_works(void)
{
	struct gpu_args args = { .value = 42, .rounds = 1 };
	uint64_t word = 0;
	struct gpu g;
	int ret = gpu_open(&g);

	if (ret)
		return ret;
	args.addr = (uintptr_t)&word;
	ret = gpu_run(&g, GPU_SYM_k_write, &args, 1);
	gpu_close(&g);
	return ret ? ret : word == 42 ? 0 : -EINVAL;
}

uint32_t device_read(const struct device *d, uint32_t reg)
{
	return d->bar0[reg / sizeof(uint32_t)];
}

void device_write(const struct device *d, uint32_t reg, uint32_t value)
{
	d->bar0[reg / sizeof(uint32_t)] = value;
}

int hold_load(void)
{
	int ret = load("RSVM_HOLD_KO", "/lib/modules/rsvm_hold.ko");

	return ret == -EEXIST ? 0 : ret;
}

int hold_mmap_lock(pid_t pid)
{
	char line[32];

	snprintf(line, sizeof(line), "%d", pid);
	return sys_write(HOLD "mmap_lock", line);
}

int hold_folio(uint64_t pfn, bool locked)
{
	char line[32];

	snprintf(line, sizeof(line), "%llu", (unsigned long long)pfn);
	return sys_write(locked ? HOLD "folio_lock" : HOLD "folio", line);
}

int hold_release(bool irqoff)
{
	return sys_write(HOLD "release", irqoff ? "irqoff" : "0");
}

uint64_t mem_device_pfn(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t e = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &e, sizeof(e), (uintptr_t)p / PAGE * sizeof(e)) != sizeof(e))
		e = 0;
	close(fd);
	/* Shown as a swap entry: five bits of type, then the offset. */
	return e >> 62 == 1 ? (e & ((1ull << 55) - 1)) >> 5 : 0;
}
