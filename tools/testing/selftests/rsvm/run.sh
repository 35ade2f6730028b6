#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs the test programs beside it (or those named) and sums their TAP:
#
#   run.sh [-t SECONDS] [-p PART/PARTS] [NAME[:HARNESS-OPTIONS]]...
#
# A program is ended when for SECONDS (600) no line came from it and no counter
# of a device moved. NAME is with or without _test; harness options, such as
# -tNAME or -vVARIANT, are split at commas. Last line: "selftests: N passed, N failed,
# N skipped"; the exit status is 0 if none failed. After each program the
# device has to be clean: no stale TLB hit, no lost update, no guest error, no
# kernel splat.
# Without names all programs run, but where VRAM is small (up to 64 MiB) those
# that are about a lack of it. Those about the process's memory run twice: with
# all of it kept in system memory, and with pages that move to the device. With
# -p only every PARTS-th of these runs is done, beginning with the PART-th.
#
# Not run unless named, since they need what is not always there: alloc and
# alloc_move, a kernel with fault injection; removal, a device that vanishes;
# atomic_peers, two devices.
dir=$(cd "$(dirname "$0")" && pwd)
limit=600 part=1 parts=1 turn=0
passed=0 failed=0 skipped=0
splat='WARNING:|BUG:|Oops|general protection fault|KASAN|Kernel panic|possible circular locking|possible recursive locking|INFO: task .* blocked|DMA-API:.*(leak|error|device driver)|UBSAN|refcount_t:|INFO: rcu|soft lockup|Call Trace:'
while getopts t:p: option; do
	case $option in
	t) limit=$OPTARG ;;
	p) part=${OPTARG%/*} parts=${OPTARG#*/} ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))

# What the tests need of the system: swap and a disk with a file system. A disk
# for swap is taken only if it is blank; compressed memory does otherwise.
zram() {
	n=$1 size=$2
	[ -b "/dev/zram$n" ] || cat /sys/class/zram-control/hot_add >/dev/null 2>&1
	[ "$(cat "/sys/block/zram$n/disksize" 2>/dev/null)" = 0 ] || return 1
	echo "$size" > "/sys/block/zram$n/disksize"
}
setup() {
	[ -d /sys/kernel/debug/dri ] || mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
	if [ "$(wc -l < /proc/swaps)" -lt 2 ]; then
		if [ "$(head -c 65536 /dev/vda 2>/dev/null | tr -d '\0' | wc -c)" = 0 ] && [ -b /dev/vda ]; then
			mkswap /dev/vda >/dev/null && swapon /dev/vda
		elif zram 0 256M; then
			mkswap /dev/zram0 >/dev/null && swapon /dev/zram0
		fi
	fi
	mkdir -p /mnt/rsvm
	if ! grep -q ' /mnt/rsvm ' /proc/mounts && zram 1 128M; then
		mke2fs -b 4096 /dev/zram1 >/dev/null 2>&1 && mount -t ext4 /dev/zram1 /mnt/rsvm
	fi
}

# A figure of all devices together, 0 if they have none.
stat_of() {
	cat /sys/kernel/debug/rsvm-*/stats 2>/dev/null |
		awk -v n="$1" '$1 == n {v += $2} END {print v + 0}'
}

check() {
	failed=$((failed + 1))
	echo "not ok - $name: $*"
}

# Ends the session of a program that makes no progress. With the program it ends
# the test that this has forked.
guard() {
	seen='' still=0
	while sleep 5; do
		now="$(wc -c < "$tmp/tap") $(cat /sys/kernel/debug/rsvm-*/stats 2>/dev/null | md5sum)"
		[ "$now" = "$seen" ] || still=0
		seen=$now still=$((still + 5))
		[ "$still" -lt "$limit" ] || break
	done
	: > "$tmp/hung"
	end_session "$(cat "$tmp/session")"
}

end_session() {
	sed 's/^\([0-9]*\) (.*) . [0-9]* [0-9]* \([0-9]*\) .*/\2 \1/' /proc/[0-9]*/stat 2>/dev/null |
		while read -r session pid; do
			[ "$session" != "$1" ] || kill -KILL "$pid"
		done
}

run() {
	name=${1%%:*}
	options=
	[ "$name" = "$1" ] || options=$(echo "${1#*:}" | tr , ' ')
	name=${name%_test}
	prog=$dir/${name}_test
	if [ ! -x "$prog" ]; then
		check "there is no such program"
		return
	fi
	stale=$(stat_of stale_hits)
	lost=$(stat_of lost_updates)
	guest=$(stat_of guest_errors)
	lines=$(dmesg | wc -l)
	echo "# $name${RSVM_STAY:+, in system memory}"
	start=$(date +%s)
	: > "$tmp/tap"
	rm -f "$tmp/hung"
	guard > /dev/null &
	guard=$!
	# shellcheck disable=SC2086 # options are a list
	{
		setsid sh -c 'echo $$ > "$0"; exec "$@"' "$tmp/session" "$prog" $options 2>&1
		echo $? > "$tmp/status"
		end_session "$(cat "$tmp/session")"
	} | tee "$tmp/tap"
	kill $guard
	status=$(cat "$tmp/status")
	# A test that failed may not have come to this.
	[ ! -e /sys/kernel/mm/ksm/run ] || echo 0 > /sys/kernel/mm/ksm/run
	echo "# $name: $(($(date +%s) - start)) s"
	ok=$(grep -c '^ok .*# SKIP' "$tmp/tap")
	skipped=$((skipped + ok))
	passed=$((passed + $(grep -c '^ok ' "$tmp/tap") - ok))
	bad=$(grep -c '^not ok ' "$tmp/tap")
	failed=$((failed + bad))
	planned=$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' "$tmp/tap" | tail -n 1)
	done=$(grep -cE '^(not )?ok ' "$tmp/tap")
	if [ "${planned:-none}" != "$done" ]; then
		check "ended with status $status after $done of ${planned:-no} tests"
	elif [ "$bad" = 0 ] && [ "$status" != 0 ] && [ "$status" != 4 ]; then
		check "exit status $status"
	fi
	[ ! -e "$tmp/hung" ] || check "made no progress for $limit s in $(grep '^#  RUN' "$tmp/tap" | tail -n 1)"
	now=$(stat_of stale_hits)
	[ "$now" = "$stale" ] || [ "$now" = 0 ] || check "$((now - stale)) stale TLB hits"
	now=$(stat_of lost_updates)
	[ "$now" = "$lost" ] || [ "$now" = 0 ] || check "$((now - lost)) lost updates"
	now=$(stat_of guest_errors)
	[ "$now" = "$guest" ] || [ "$now" = 0 ] || check "$((now - guest)) guest errors of the device"
	# What the OOM killer tells of its work is no complaint.
	dmesg | tail -n +$((lines + 1)) | sed '/invoked oom-killer/,/Call Trace:/d' > "$tmp/dmesg"
	if grep -qE "$splat" "$tmp/dmesg"; then
		check "the kernel complained"
		grep -E -A 30 "$splat" "$tmp/dmesg" | head -n 60 | sed 's/^/# /'
	fi
}

# Runs a program if it belongs to the part.
each() {
	turn=$((turn % parts + 1))
	[ "$turn" != "$part" ] || run "$1"
}

# The same with all memory of the tests kept in system memory.
stay() {
	export RSVM_STAY=1
	each "$1"
	unset RSVM_STAY
}

# On a machine without the device nothing is set up and nothing runs.
if ! grep -qs 1af410f0 /proc/bus/pci/devices; then
	echo "not ok - there is no virtual GPU"
	echo "selftests: 0 passed, 1 failed, 0 skipped"
	exit 1
fi
tmp=$(mktemp -d /tmp/rsvm.XXXXXX)
setup
vram=$(stat_of vram_total)
if [ $# = 0 ] && [ "$vram" -gt 0 ] && [ "$vram" -le 67108864 ]; then
	# The last one leaves no device behind.
	export RSVM_REMOVE=1
	set -- evict evict_obstacle engine_fail bo vram_unbind:-tzz_surprise_removal
fi
if [ $# = 0 ]; then
	for prog in "$dir"/*_test; do
		case $prog in
		*/alloc_test|*/alloc_move_test|*/removal_test|*/atomic_peers_test) ;;
		*) set -- "$@" "$(basename "$prog")" ;;
		esac
	done
fi
for each in "$@"; do
	case $each in
	cow*|dirty*|fault*|memory*|mm*|process*|race*|stress*|swap*)
		stay "$each"
		each "$each"
		;;
	abi*|blocked*|event*|privilege*|stats*|unbind*) stay "$each" ;;
	*) each "$each" ;;
	esac
done
rm -rf "$tmp"
echo "selftests: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
