#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0
# The guest's init: mounts, loads the module, runs what vm-run.sh asked for and
# reports its exit status on the second serial line.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin:/sbin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /sys/fs/cgroup
mount -t devpts devpts /dev/pts
mount -t tmpfs -o size=75% tmp /tmp
mount -t tmpfs -o size=75% shm /dev/shm
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup /sys/fs/cgroup
echo 0 > /proc/sys/kernel/printk_ratelimit 2>/dev/null
ln -sf /proc/self/fd /dev/fd
ip link set lo up 2>/dev/null

cmdline=$(cat /proc/cmdline)
case " $cmdline " in
*" rsvm.noload "*) ;;
*) insmod /lib/modules/rsvm.ko || echo "guest: rsvm.ko did not load" ;;
esac

cd /root || exit 1
if [ -e /root/.vm-run-interactive ]; then
	echo "guest: type 'exit' or press Ctrl-A X to leave"
	setsid cttyhack sh
	status=0
else
	stty -F /dev/ttyS1 raw -echo 2>/dev/null
	sh /root/.vm-run-cmd > /dev/ttyS1 2>&1 < /dev/null
	status=$?
	# Leaks of a module that is still loaded show when it goes.
	case " $cmdline " in
	*" rsvm.noload "*) ;;
	*)
		# The service of a device that does not answer takes its seconds to give up.
		tries=30
		while grep -q '^rsvm ' /proc/modules && ! rmmod rsvm; do
			tries=$((tries - 1))
			[ "$tries" -gt 0 ] || { echo "guest: WARNING: rsvm could not be unloaded"; break; }
			sleep 1
		done
		;;
	esac
	# An object is reported when it is some seconds old and two scans miss it.
	leaks=/sys/kernel/debug/kmemleak
	if [ -e "$leaks" ] && sleep 6 && echo scan > "$leaks" && sleep 6 && echo scan > "$leaks"; then
		cat "$leaks"
		echo "guest: looked for leaks"
	fi
fi
sync
echo "guest: exit status $status"
printf '%s' "$status" > /dev/ttyS2
poweroff -f
