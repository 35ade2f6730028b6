#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Boot the VM with module and virtual GPU, run a command there and return its
# output and exit status.
#
#   CMD='...'        command for the guest's shell, run in /root
#   FILES='a b'      files and directories put into /root
#   KERNEL=test      which kernel: test, debug
#   VGPU_ARGS='...'  passed to the virtual GPU (rsvm-vgpu --help)
#   VGPUS=1          how many virtual GPUs
#   MEM=2G           guest memory
#   CPUS=2           guest CPUs, at least 2
#   TIMEOUT=300      seconds without any output after which a hang is assumed;
#                    they pass more slowly while the host's CPUs are contended
#   APPEND='...'     added to the kernel command line
#   GPU=1            0 boots without the virtual GPU
#   LOG=last         its console and what the virtual GPU says go to
#                    build/log/$LOG-console and so on
#
# The exit status is that of the command, or 124 on a hang, or 125 when the kernel
# printed a warning, an oops, or a lockdep, KASAN or leak report. The last line
# tells it: "vm-run: exit status N". make turns any but 0 into 2; a caller to whom
# the number matters runs `make kernel vgpu` and then this script.
. "$(dirname "$0")/lib.sh"

CMD=${CMD-}
FILES=${FILES-}
KERNEL=${KERNEL:-test}
VGPU_ARGS=${VGPU_ARGS-}
VGPUS=${VGPUS:-1}
MEM=${MEM:-2G}
CPUS=${CPUS:-2}
TIMEOUT=${TIMEOUT:-300}
APPEND=${APPEND-}
GPU=${GPU:-1}
LOG=${LOG:-last}
INTERACTIVE=${INTERACTIVE:-0}

[ "$CPUS" -ge 2 ] || die "CPUS=$CPUS: with one vCPU the guest's atomics are not atomic towards the device"
[ -n "$CMD" ] || [ "$INTERACTIVE" = 1 ] || die "CMD is empty.
Usage: make vm-run CMD='./prog args' FILES='prog'"
kernel=$BUILD/kernel-$KERNEL/vmlinux
[ -e "$kernel" ] || die "$kernel is missing; run 'make kernel KERNEL=$KERNEL'"
vgpu=$BUILD/bin/rsvm-vgpu
[ "$GPU" = 0 ] || [ -e "$vgpu" ] || die "$vgpu is missing; run 'make vgpu'"

run=$(mktemp -d "$BUILD/vm.XXXXXX")
vgpu_pids=() qemu_pid=''
cleanup() {
	local status=$? pid f
	[ -z "$qemu_pid" ] || kill -9 "$qemu_pid" 2>/dev/null || true
	for pid in "${vgpu_pids[@]}"; do
		# It ends with the VMM, and then writes its statistics. TERM reaches the
		# sandbox around it, which takes it along at once.
		ends_within 5 "$pid" || kill -TERM "$pid" 2>/dev/null || true
	done
	wait 2>/dev/null || true
	mkdir -p "$BUILD/log"
	for f in console qemu.log vgpu.log vgpu.json; do
		[ ! -e "$run/$f" ] || cp "$run/$f" "$BUILD/log/$LOG-$f"
	done
	rm -rf "$run"
	[ "$INTERACTIVE" = 1 ] || echo "vm-run: exit status $status" >&2
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# /dev/kvm may open and still run no guest: try one for a moment.
accel() {
	local mark=$CACHE/kvm-works
	[ -w /dev/kvm ] || { echo tcg; return; }
	if [ ! -e "$mark" ]; then
		local works=no
		# A boot that reaches the kernel's own power-off exits 0 well in time.
		if in_root timeout 20 qemu-system-x86_64 -accel kvm -cpu host -m 256M -smp 2 \
			-kernel "$kernel" -append 'console=ttyS0 panic=-1 kunit.enable=0' -no-reboot \
			-display none -serial "file:$run/probe" >/dev/null 2>&1 &&
			grep -q 'Kernel panic' "$run/probe"; then
			works=yes
		fi
		echo "$works" > "$mark"
	fi
	[ "$(cat "$mark")" = yes ] && echo kvm || echo tcg
}

printf '%s\n' "$CMD" > "$run/.vm-run-cmd"
extra=("$run/.vm-run-cmd")
if [ "$INTERACTIVE" = 1 ]; then
	: > "$run/.vm-run-interactive"
	extra+=("$run/.vm-run-interactive")
fi
# shellcheck disable=SC2086 # FILES is a list
"$TOP/scripts/initramfs.sh" "$KERNEL" "$run/initramfs" "${extra[@]}" $FILES

qemu=(qemu-system-x86_64 -nodefaults -no-reboot -display none -m "$MEM" -smp "$CPUS")
if [ "$(accel)" = kvm ]; then
	qemu+=(-accel kvm -cpu host)
else
	qemu+=(-accel tcg,thread=multi -cpu max)
fi
qemu+=(-object "memory-backend-memfd,id=mem,size=$MEM,share=on" -machine q35,memory-backend=mem,hpet=off)
# start_vgpu NAME : its files are NAME.sock, .json and .log
start_vgpu() {
	local at=$run/$1 pid
	# shellcheck disable=SC2086 # VGPU_ARGS is a list
	in_root "$vgpu" --socket "$at.sock" --stats "$at.json" $VGPU_ARGS >"$at.log" 2>&1 &
	pid=$!
	vgpu_pids+=("$pid")
	until [ -S "$at.sock" ]; do
		! ends_within 0.02 "$pid" || { cat "$at.log" >&2; die "the virtual GPU did not start"; }
	done
	qemu+=(-device "{\"driver\":\"vfio-user-pci\",\"socket\":{\"path\":\"$at.sock\",\"type\":\"unix\"}}")
}
if [ "$GPU" = 1 ]; then
	start_vgpu vgpu
	for n in $(seq 2 "$VGPUS"); do
		start_vgpu "vgpu$n"
	done
fi
# With five levels KASAN sees a wild access in each interrupt that comes while
# identify_cpu() has forgotten what the CPU can do.
[ "$KERNEL" != debug ] || APPEND="no5lvl $APPEND"
append="console=ttyS0 panic=-1 oops=panic panic_on_warn=0 kunit.autorun=0 no_timer_check $APPEND"
if [ -n "${SWAP_MIB:-}" ]; then
	truncate -s "${SWAP_MIB}M" "$run/swap"
	qemu+=(-drive "if=none,id=swap,format=raw,file=$run/swap" -device virtio-blk-pci,drive=swap)
fi
qemu+=(-kernel "$kernel" -initrd "$run/initramfs")

if [ "$INTERACTIVE" = 1 ]; then
	in_root "${qemu[@]}" -append "$append" -chardev stdio,id=con,mux=on,signal=off \
		-serial chardev:con -serial null -serial null
	exit
fi

: > "$run/output"
in_root "${qemu[@]}" -append "$append loglevel=7" 2> "$run/qemu.log" \
	-serial "file:$run/console" -serial "file:$run/output" -serial "file:$run/status" &
qemu_pid=$!
tail -n +1 -f --pid="$qemu_pid" -s 0.05 "$run/output" &
tail_pid=$!

# Microseconds in which some process of the host waited for a CPU, if it counts them.
contended() {
	local total=total=0
	{ read -r _ _ _ _ total < /proc/pressure/cpu; } 2>/dev/null || true
	echo "${total#total=}"
}

# watch : returns when QEMU ends, or fails when nothing has come from it for
# TIMEOUT s. Time in which processes wait for CPUs counts a tenth: there the
# guest is slow. A kernel that only complains makes no progress.
watch() {
	local size last='' stalled=0 now begun waited before step
	begun=${EPOCHREALTIME/./} before=$(contended)
	until ends_within 1 "$qemu_pid"; do
		now=${EPOCHREALTIME/./} waited=$(contended)
		step=$((now - begun - waited + before))
		[ "$step" -gt $(((now - begun) / 10)) ] || step=$(((now - begun) / 10))
		size=$(stat -c %s "$run/output")
		[ "$size" -gt 0 ] || size=$(stat -c %s "$run/console" 2>/dev/null) || true
		if [ "$size" = "$last" ]; then stalled=$((stalled + step)); else stalled=0; fi
		[ "$stalled" -lt "${TIMEOUT}000000" ] || return 1
		last=$size begun=$now before=$waited
	done
}
hang=0
watch || { hang=1; kill -9 "$qemu_pid" 2>/dev/null || true; }
wait "$qemu_pid" 2>/dev/null || true
qemu_pid=''
wait "$tail_pid" 2>/dev/null || true

splat='WARNING:|BUG:|Oops|general protection fault|KASAN|Kernel panic|possible circular locking|possible recursive locking|INFO: task .* blocked|unreferenced object|DMA-API:.*(leak|error|device driver|disabl)|kmemleak:.*(disabled|Cannot allocate)|guest: WARNING|UBSAN|refcount_t:|INFO: rcu|soft lockup|Call Trace:|not ok '
# What the OOM killer tells of its work is no complaint.
sed '/invoked oom-killer/,/Call Trace:/d' "$run/console" > "$run/messages"
if grep -qE "$splat" "$run/messages"; then
	echo "vm-run: the kernel complained:" >&2
	grep -nE -B2 -A40 "$splat" "$run/messages" | head -n 120 >&2 || true
	exit 125
fi
if [ -s "$run/status" ] && [ "$KERNEL" = debug ] && ! grep -q 'guest: looked for leaks' "$run/console"; then
	echo "vm-run: kmemleak did not scan" >&2
	exit 125
fi
if [ ! -s "$run/status" ]; then
	echo "vm-run: no exit status from the guest$([ "$hang" = 1 ] && echo ", and no output for $TIMEOUT s (TIMEOUT=)"); the console's end:" >&2
	tail -n 30 "$run/console" >&2
	for f in qemu.log vgpu.log; do
		[ ! -s "$run/$f" ] || tail -n 10 "$run/$f" >&2
	done
	exit 124
fi
status=$(cat "$run/status")
if [ "$status" = 127 ] && [ -n "$FILES" ]; then
	# Of a missing loader the guest's shell says "not found" and no more.
	# shellcheck disable=SC2086 # FILES is a list
	find -L $FILES -type f | while read -r file; do
		# Scripts are none of its business.
		{ in_root readelf -lW /dev/stdin < "$file" 2>/dev/null || true; } | sed -n "s|.*interpreter: \(.*\)]|vm-run: $file is dynamically linked and needs \1, which the VM does not have; link it with -static|p" >&2
	done
fi
exit "$status"
