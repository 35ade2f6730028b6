// SPDX-License-Identifier: GPL-2.0
/*
 * Holds what a driver of device memory has to live with others holding: the
 * mmap_lock of a process, and references to and locks of its folios.
 *
 * Files in /sys/kernel/debug/rsvm_hold:
 *
 *  mmap_lock	write "PID": takes the lock for writing and returns.
 *  folio	write "PFN": takes a reference to the folio.
 *  folio_lock	write "PFN": takes a reference and the lock. A device-private
 *		page's pfn is the swap offset in /proc/PID/pagemap.
 *  release	write "0" or "irqoff": lets all go, in the second case folios
 *		with interrupts off. Reading any file gives how many folios
 *		are held.
 */
#include <linux/debugfs.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#define MAX_FOLIOS 64

static struct dentry *dir;
static struct workqueue_struct *holders;

/* Protects all below. */
static DEFINE_MUTEX(lock);
static struct folio *folios[MAX_FOLIOS];
static bool locked[MAX_FOLIOS];
static int held;

/* How often all was let go; read without the lock. */
static unsigned int releases;
static DECLARE_WAIT_QUEUE_HEAD(released);

struct mmap_hold {
	struct work_struct work;
	struct completion *taken;
	struct mm_struct *mm;
	unsigned int releases;
};

static void hold_mmap_lock(struct work_struct *work)
{
	struct mmap_hold *hold = container_of(work, struct mmap_hold, work);

	mmap_write_lock(hold->mm);
	complete(hold->taken);
	wait_event_idle(released, READ_ONCE(releases) != hold->releases);
	mmap_write_unlock(hold->mm);
	mmput(hold->mm);
	kfree(hold);
}

static ssize_t read_line(char *line, size_t size, const char __user *buf, size_t len)
{
	if (len >= size)
		return -EINVAL;
	if (copy_from_user(line, buf, len))
		return -EFAULT;
	line[len] = 0;
	return 0;
}

static ssize_t mmap_lock_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	DECLARE_COMPLETION_ONSTACK(taken);
	struct task_struct *task;
	struct mmap_hold *hold;
	struct pid *pid;
	char line[32];
	int nr, ret;

	hold = kzalloc_obj(*hold);
	if (!hold)
		return -ENOMEM;
	ret = read_line(line, sizeof(line), buf, len);
	if (!ret)
		ret = kstrtoint(strim(line), 0, &nr);
	if (ret)
		goto free;
	ret = -ESRCH;
	pid = find_get_pid(nr);
	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (!task)
		goto free;
	hold->mm = get_task_mm(task);
	put_task_struct(task);
	if (!hold->mm)
		goto free;
	INIT_WORK(&hold->work, hold_mmap_lock);
	hold->taken = &taken;
	hold->releases = READ_ONCE(releases);
	queue_work(holders, &hold->work);
	wait_for_completion(&taken);
	return len;
free:
	kfree(hold);
	return ret;
}

static ssize_t hold_folio(const char __user *buf, size_t len, bool with_lock)
{
	struct folio *folio;
	unsigned long pfn;
	char line[32];
	int ret;

	ret = read_line(line, sizeof(line), buf, len);
	if (!ret)
		ret = kstrtoul(strim(line), 0, &pfn);
	if (ret)
		return ret;
	if (!pfn_valid(pfn))
		return -ENXIO;
	guard(mutex)(&lock);
	if (held == MAX_FOLIOS)
		return -ENOSPC;
	folio = page_folio(pfn_to_page(pfn));
	if (!folio_try_get(folio))
		return -ENOENT;
	if (with_lock)
		folio_lock(folio);
	folios[held] = folio;
	locked[held] = with_lock;
	held++;
	return len;
}

static ssize_t folio_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	return hold_folio(buf, len, false);
}

static ssize_t folio_lock_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	return hold_folio(buf, len, true);
}

static void release_all(bool irqoff)
{
	unsigned long flags = 0;

	guard(mutex)(&lock);
	WRITE_ONCE(releases, releases + 1);
	wake_up_all(&released);
	while (held) {
		held--;
		if (locked[held])
			folio_unlock(folios[held]);
		if (irqoff)
			local_irq_save(flags);
		folio_put(folios[held]);
		if (irqoff)
			local_irq_restore(flags);
	}
}

static ssize_t release_write(struct file *file, const char __user *buf, size_t len, loff_t *pos)
{
	char line[32];
	int ret;

	ret = read_line(line, sizeof(line), buf, len);
	if (ret)
		return ret;
	release_all(!strcmp(strim(line), "irqoff"));
	return len;
}

static ssize_t held_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	char line[16];
	int size;

	mutex_lock(&lock);
	size = scnprintf(line, sizeof(line), "%d\n", held);
	mutex_unlock(&lock);
	return simple_read_from_buffer(buf, len, pos, line, size);
}

#define HOLD_FILE(name)							\
	static const struct file_operations name##_fops = {		\
		.owner = THIS_MODULE,					\
		.open = simple_open,					\
		.read = held_read,					\
		.write = name##_write,					\
	}

HOLD_FILE(mmap_lock);
HOLD_FILE(folio);
HOLD_FILE(folio_lock);
HOLD_FILE(release);

static int __init rsvm_hold_init(void)
{
	holders = alloc_workqueue("rsvm_hold", WQ_UNBOUND, 0);
	if (!holders)
		return -ENOMEM;
	dir = debugfs_create_dir("rsvm_hold", NULL);
	debugfs_create_file("mmap_lock", 0600, dir, NULL, &mmap_lock_fops);
	debugfs_create_file("folio", 0600, dir, NULL, &folio_fops);
	debugfs_create_file("folio_lock", 0600, dir, NULL, &folio_lock_fops);
	debugfs_create_file("release", 0600, dir, NULL, &release_fops);
	return 0;
}

static void __exit rsvm_hold_exit(void)
{
	debugfs_remove(dir);
	release_all(false);
	destroy_workqueue(holders);
}

module_init(rsvm_hold_init);
module_exit(rsvm_hold_exit);
MODULE_DESCRIPTION("Holds locks and folios against the rsvm selftests");
MODULE_LICENSE("GPL");
