#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Measure rsvm beside test_hmm and memcpy in the VM, into build/bench.json and
# build/bench.svg. Figures of a guest under TCG say little alone; compare those
# of one line.
. "$(dirname "$0")/lib.sh"
export CARGO_TARGET_DIR=$BUILD/cargo

out=$BUILD/log/bench.out
: > "$out"
# measure PART VGPU_ARGS : a boot of its own
measure() {
	say "bench: $1 (some minutes)"
	CMD="mount -t debugfs none /sys/kernel/debug 2>/dev/null; insmod /lib/modules/test_hmm.ko; ./rsvm-bench $1" FILES="$BUILD/lib/rsvm-bench" MEM=6G \
		TIMEOUT="${TIMEOUT:-1800}" VGPU_ARGS="$2" "$TOP/scripts/vm-run.sh" | tee -a "$out"
}
measure latency '--vram 2G'
measure atomics '--atomic-window 0us'
measure oversubscription '--vram 64M'
IN_ROOT_DIR=$TOP/tools/rsvm-bench/plot run_logged "$BUILD/log/bench-plot.log" \
	in_root cargo build --release --locked
in_root "$CARGO_TARGET_DIR/release/rsvm-bench-plot" "$BUILD/bench.json" "$BUILD/bench.svg" < "$out"
say "bench: $BUILD/bench.json, $BUILD/bench.svg"
