// SPDX-License-Identifier: GPL-2.0
/*
 * A mirror whose fault service is blocked, in userfaultfd, stalls nobody else,
 * and nobody who ends it waits for the one who blocks it.
 */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "lib/rsvm_test.h"

/* Registers a page-missing userfaultfd over the range; its fd. */
static int uffd_open(void *p, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)p, .len = size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(__NR_userfaultfd, O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg)) {
		close(fd);
		return -EINVAL;
	}
	return fd;
}

/* Waits until a fault in the range has reached the userfaultfd. */
static int uffd_faulted(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&p, 1, -1) != 1)
		return -errno;
	if (read(fd, &msg, sizeof(msg)) != sizeof(msg))
		return -errno;
	return msg.event == UFFD_EVENT_PAGEFAULT ? 0 : -EINVAL;
}

static int uffd_fill(int fd, void *p, uint64_t value)
{
	static uint64_t page[PAGE / 8] __attribute__((aligned(4096)));
	struct uffdio_copy copy = {
		.dst = (uintptr_t)p,
		.src = (uintptr_t)page,
		.len = PAGE,
	};

	page[0] = value;
	return ioctl(fd, UFFDIO_COPY, &copy) ? -errno : 0;
}

FIXTURE(blocked)
{
	struct gpu g;
	struct mem m;
	int uffd;
	struct gpu_args args;
	struct gpu_result out;
};

FIXTURE_SETUP(blocked)
{
	ASSERT_OK(mem_get(&self->m, MEM_ANON, LEAF));
	self->uffd = uffd_open(self->m.p, LEAF);
	if (self->uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_OK(gpu_open(&self->g));
	self->args = (struct gpu_args){ .addr = (uintptr_t)self->m.p, .out = &self->out };
	/* From here on the mirror's worker sleeps in handle_userfault(). */
	ASSERT_OK(gpu_launch(&self->g, GPU_SYM_k_read, &self->args, 1));
	ASSERT_OK(uffd_faulted(self->uffd));
}

FIXTURE_TEARDOWN(blocked)
{
	gpu_close(&self->g);
	close(self->uffd);
	mem_put(&self->m);
}

/* Works on the device in a mirror of its own; 0 if all is well. */
static int elsewhere(void)
{
	struct gpu g;
	struct mem m;
	int ret = 0;

	if (mem_get(&m, MEM_ANON, LEAF) || gpu_open(&g))
		return 1;
	for (int r = 1; r <= 5 && !ret; r++) {
		if (gpu_over(&g, GPU_SYM_k_write, m.p, PAGE, 512, r, NULL))
			ret = 2;
		for (int i = 0; i < 512; i++)
			if (*word_at(m.p, i * PAGE) != (uint64_t)r + i)
				ret = 3;
		madvise(m.p, LEAF, MADV_DONTNEED);
	}
	gpu_close(&g);
	mem_put(&m);
	return ret;
}

/* Other mirrors, in this process and in another, go on; then the block ends. */
TEST_F(blocked, others_go_on)
{
	pid_t pid;

	EXPECT_EQ(-ETIME, gpu_wait_until(&self->g, now_ns()));
	EXPECT_EQ(0, elsewhere());
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(elsewhere());
	EXPECT_EQ(0, wait_exit(pid));
	EXPECT_EQ(-ETIME, gpu_wait_until(&self->g, now_ns()));
	ASSERT_OK(uffd_fill(self->uffd, self->m.p, 0x1234));
	ASSERT_OK(gpu_wait(&self->g));
	EXPECT_EQ(0x1234, self->out.value);
}

TEST_F(blocked, queue_destroy)
{
	ASSERT_OK(rsvm_queue_destroy(self->g.fd, self->g.queue));
	EXPECT_EQ(0, elsewhere());
}

TEST_F(blocked, vm_destroy)
{
	ASSERT_OK(rsvm_vm_destroy(self->g.fd, self->g.vm));
	EXPECT_EQ(0, elsewhere());
	/* Whoever served the fault finds the mirror gone. */
	ASSERT_OK(uffd_fill(self->uffd, self->m.p, 1));
	EXPECT_EQ(0, elsewhere());
}

/*
 * A fence that is still waited for is not written once the mirror is destroyed:
 * its owner may use the memory for something else.
 */
TEST(fence_of_destroyed_mirror)
{
	volatile uint64_t *fence = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct gpu g;
	struct mem m;
	int uffd;

	ASSERT_NE(MAP_FAILED, (void *)fence);
	uffd = uffd_open((void *)fence, PAGE);
	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_OK(mem_get(&m, MEM_ANON, LEAF));
	ASSERT_OK(gpu_open(&g));
	ASSERT_OK(svm_migrate_start(&g, m.p, PAGE, TO_SYSTEM, fence, 1));
	ASSERT_OK(uffd_faulted(uffd));
	ASSERT_OK(rsvm_vm_destroy(g.fd, g.vm));
	ASSERT_OK(uffd_fill(uffd, (void *)fence, 0));
	/* Time enough for whoever waited. */
	usleep(300000);
	EXPECT_EQ(0, *fence);
	gpu_close(&g);
	mem_put(&m);
	close(uffd);
	munmap((void *)fence, PAGE);
}

TEST_F(blocked, close)
{
	ASSERT_OK(close(self->g.fd));
	self->g.fd = -1;
	EXPECT_EQ(0, elsewhere());
	ASSERT_OK(uffd_fill(self->uffd, self->m.p, 1));
	EXPECT_EQ(0, elsewhere());
}

/* The memory goes from under the blocked service. */
TEST_F(blocked, munmap)
{
	struct uffdio_range range = { .start = (uintptr_t)self->m.p, .len = LEAF };

	ASSERT_OK(munmap(self->m.p, LEAF));
	/* munmap() alone wakes nobody in there. */
	ASSERT_OK(ioctl(self->uffd, UFFDIO_WAKE, &range));
	EXPECT_EQ(-EIO, gpu_wait(&self->g));
	EXPECT_EQ(DRM_RSVM_FAULT_NO_MAPPING, self->g.fault_reason);
	EXPECT_EQ(0, elsewhere());
}

FIXTURE(killed)
{
};

FIXTURE_VARIANT(killed)
{
	bool kept;	/* the userfaultfd lives on in the parent */
};

FIXTURE_VARIANT_ADD(killed, uffd_goes) { .kept = false };
FIXTURE_VARIANT_ADD(killed, uffd_stays) { .kept = true };

FIXTURE_SETUP(killed)
{
}

FIXTURE_TEARDOWN(killed)
{
}

/* Sends @fd over @socket. */
static int send_fd(int socket, int fd)
{
	char c = 0, control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iov = { &c, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = fd < 0 ? 0 : sizeof(control),
	};

	if (fd >= 0) {
		struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	}
	return sendmsg(socket, &msg, 0) == 1 ? 0 : -errno;
}

/* Waits for the byte; the fd that came with it or -1. */
static int receive_fd(int socket)
{
	char c, control[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iov = { &c, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd = -1;

	if (recvmsg(socket, &msg, 0) == 1 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* kill -9 of the process whose fault is blocked: it goes, the rest goes on. */
TEST_F(killed, while_blocked)
{
	int pair[2], uffd;
	pid_t pid;

	ASSERT_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		static struct gpu_args args;
		struct gpu g;
		struct mem m;
		int fd;

		if (mem_get(&m, MEM_ANON, LEAF))
			_exit(1);
		fd = uffd_open(m.p, LEAF);
		if (fd < 0)
			_exit(KSFT_SKIP);
		args.addr = (uintptr_t)m.p;
		args.stride = PAGE;
		if (gpu_open(&g) || gpu_launch(&g, GPU_SYM_k_write, &args, 64) ||
		    uffd_faulted(fd) || send_fd(pair[1], variant->kept ? fd : -1))
			_exit(2);
		gpu_wait_until(&g, INT64_MAX);
		_exit(3);
	}
	close(pair[1]);
	uffd = receive_fd(pair[0]);
	if (variant->kept) {
		ASSERT_GE(uffd, 0);
	}
	EXPECT_EQ(0, elsewhere());
	ASSERT_OK(kill(pid, SIGKILL));
	ASSERT_EQ(128 + SIGKILL, wait_exit(pid));
	EXPECT_EQ(0, elsewhere());
	if (uffd >= 0)
		close(uffd);
	EXPECT_EQ(0, elsewhere());
}

TEST_HARNESS_MAIN
