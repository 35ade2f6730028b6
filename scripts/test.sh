#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# All tests. Every stage adds to one count; the last line is
# "N passed, N failed, N skipped", and the status is 0 only without a failure.
#
#   KERNEL=test      debug: the selftests on the debug kernel, nothing else
#   STAGES='a b'     run only these: model, kunit, compile-fail, selftests,
#                    selftests-v3, selftests-late-acks, selftests-two-gpus,
#                    selftests-small-vram, removal; with KERNEL=debug also alloc
#
# What the selftests tell of waiting and fairness goes to build/histograms-*.txt.
. "$(dirname "$0")/lib.sh"
export CARGO_TARGET_DIR=$BUILD/cargo

export KERNEL=${KERNEL:-test}
# Hang guards, for a VM and for a program in it, in seconds. What fills all of the device's memory
# takes its time on the debug kernel.
case $KERNEL in
debug)
	stages='selftests selftests-v3 selftests-late-acks selftests-two-gpus selftests-small-vram removal alloc' mem=6G vm_limit=9000 limit=1800
	scale=RSVM_SCALE=4 vram='--vram 128M'
	;;
*)
	stages='model kunit compile-fail selftests selftests-v3 selftests-late-acks selftests-two-gpus selftests-small-vram removal'
	mem=4G vm_limit=1500 limit=600 scale='' vram=''
	;;
esac
STAGES=${STAGES:-$stages}
passed=0 failed=0 skipped=0

# add STAGE PASSED FAILED SKIPPED STATUS : a stage that failed without saying
# which test did counts as one failure.
add() {
	local f=$3
	[ "$5" = 0 ] || [ "$f" -gt 0 ] || f=1
	[ "$2" -gt 0 ] || [ "$f" -gt 0 ] || { say "$1: ran no test"; f=1; }
	passed=$((passed + $2)) failed=$((failed + f)) skipped=$((skipped + $4))
	say "$1: $2 passed, $f failed, $4 skipped"
}

# count REGEX FILE : lines of FILE that match
count() { grep -cE "$1" "$2" || true; }

# Models of the virtual GPU and the library, without a VM.
stage_model() {
	local crate log status
	for crate in tools/testing/vgpu tools/lib/rsvm; do
		log=$BUILD/log/test-$(basename "$crate").log status=0
		say "cargo test: $crate"
		IN_ROOT_DIR=$TOP/$crate in_root cargo test --release --locked --no-fail-fast > "$log" 2>&1 || status=$?
		[ "$status" = 0 ] || { grep -nE -A20 'panicked|^error|FAILED' "$log" | head -n 80 >&2; }
		add "$crate" \
			"$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log")" \
			"$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")" \
			"$(awk '/^test result:/ {n += $8} END {print n + 0}' "$log")" "$status"
	done
}

# KUnit and doctests of the kernel crate at boot, those of the driver at insmod.
# Doctests of files that the project did not write run too and are not counted.
stage_kunit() {
	local log=$BUILD/log/kunit.log status=0 own suite
	say "KUnit and doctests"
	# Two nodes, so that it makes a difference on which one something is.
	CMD=true GPU=0 APPEND='kunit.autorun=1 numa=fake=2' "$TOP/scripts/vm-run.sh" || status=$?
	own=$(cd "$TOP/rust" && find kernel -name '*.rs' | sed 's|[/.]|_|g' | paste -sd '|')
	suites=$(grep -rhoE 'kunit_tests\([a-z0-9_]+' "$TOP/rust" "$TOP/patches" | sed 's/.*(//' | paste -sd '|')
	tr -d '\r' < "$BUILD/log/last-console" | sed 's/^\[ *[0-9.]*\] //' | awk -v own="rust_doctest_($own)_[0-9]" \
		-v suites="^($suites|rsvm.*)\$" '
		/# Subtest: / { suite = $NF }
		/^ +(not )?ok [0-9]+ / && (suite ~ suites || $0 ~ own) { print suite ": " $0 }
		' > "$log"
	for suite in rust_mm rsvm rust_doctests_kernel; do
		grep -q "^$suite" "$log" || { say "KUnit: nothing of $suite ran"; status=1; }
	done
	grep ': *not ok' "$log" >&2 || true
	grep -A 6 'FAILED at ' "$BUILD/log/last-console" | head -n 60 >&2 || true
	add kunit "$(count ': +ok [0-9]+ ' <(grep -v '# SKIP' "$log"))" \
		"$(count ': +not ok [0-9]+ ' "$log")" "$(count ' ok [0-9]+ .*# SKIP' "$log")" "$status"
}

# Misuse of the abstractions that must not compile.
stage_compile-fail() {
	local log=$BUILD/log/compile-fail.log status=0
	say "compile-fail cases"
	in_root "$TOP/tools/testing/compile-fail/run.sh" "$(readlink -f "$BUILD/kernel-test/source")" \
		> "$log" 2>&1 || { status=$?; tail -n 40 "$log" >&2; }
	add compile-fail "$(count '^ok ' "$log")" "$(count '^not ok ' "$log")" 0 "$status"
}

# selftest STAGE ENV... -- ARGS : the selftests in the VM
selftest() {
	local stage=$1 log=$BUILD/log/$1.log status=0 line
	shift
	say "$stage: booting the VM"
	env TIMEOUT="${TIMEOUT:-$vm_limit}" MEM="$mem" SWAP_MIB=1024 FILES="$BUILD/selftests" "$@" "$TOP/scripts/vm-run.sh" > "$log" 2>&1 || status=$?
	tr -d '\r' < "$log" | sed -n 's/^# histogram: //p' > "$BUILD/histograms-$stage.txt"
	[ -s "$BUILD/histograms-$stage.txt" ] || rm "$BUILD/histograms-$stage.txt"
	grep -E '^(not ok|# .*SKIP|ok .* # SKIP)|_test\.c:[0-9]+:|Test terminated|vm-run: (the|no|kmemleak) ' "$log" | head -n 60 >&2 || true
	line=$(tr -d '\r' < "$log" | sed -n 's/^selftests: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' | tail -n 1)
	# shellcheck disable=SC2086 # three numbers
	set -- ${line:-0 1 0}
	[ "$status" = 0 ] || { [ -n "$line" ] && [ "$2" -gt 0 ]; } || tail -n 60 "$log" >&2
	add "$stage" "$1" "$2" "$3" "$status"
}

stage_selftests() { selftest selftests VGPU_ARGS="${VGPU_ARGS:-$vram}" CMD="$scale sh selftests/run.sh -t $limit"; }

# The page-table formats differ; what faults, maps and unmaps runs on both.
stage_selftests-v3() {
	selftest selftests-v3 VGPU_ARGS="--mmu 3 $vram" CMD="$scale sh selftests/run.sh -t $limit memory mm fault stats"
}

# Acknowledgements of invalidates and replays take their time, and so do atomics.
stage_selftests-late-acks() {
	selftest selftests-late-acks VGPU_ARGS='--ack-delay 2ms --atomic-window 100us' \
		CMD="$scale sh selftests/run.sh -t $limit atomic:-vANON_add_64,-vTHP_cas_32,-vVRAM_xchg_64,-vFORKED_or_32,-vPRIVATE_FILE_max_64 atomic_mm atomic_order atomic_fair:-vthreads_8_all race migrate:-tfence_is_anywhere"
}

stage_selftests-two-gpus() {
	selftest selftests-two-gpus VGPUS=2 CMD="$scale sh selftests/run.sh -t $limit atomic_peers"
}

# More memory than VRAM, and little RAM that can be fragmented; then the device
# is pulled out.
stage_selftests-small-vram() {
	selftest selftests-small-vram MEM=1536M VGPU_ARGS='--vram 16M' CMD="$scale sh selftests/run.sh -t $limit"
}

# The device vanishes from the bus.
stage_removal() {
	selftest removal VGPU_ARGS='--remove-at-fault 3000' CMD="$scale sh selftests/run.sh -t $limit removal"
}

# Allocations of the module fail.
stage_alloc() { selftest alloc VGPU_ARGS='--vram 16M' CMD="$scale sh selftests/run.sh -t $limit alloc alloc_move"; }

"$TOP/scripts/buildroot.sh"
"$TOP/scripts/kernel.sh" build "$KERNEL"
"$TOP/scripts/user.sh" vgpu
"$TOP/scripts/user.sh" lib
"$TOP/scripts/user.sh" selftests
for stage in $STAGES; do
	declare -F "stage_$stage" >/dev/null || die "no stage named '$stage'"
	"stage_$stage"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
