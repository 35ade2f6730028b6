#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# All tests. Every stage adds to one count; the last line is
# "N passed, N failed, N skipped", and the status is 0 only without a failure.
#
#   KERNEL=test      debug: the selftests on the debug kernel, nothing else
#   STAGES='a b'     run only these: model, kunit, compile-fail, selftests,
#                    selftests-v3, selftests-late-acks, selftests-two-gpus,
#                    selftests-small-vram, removal; with KERNEL=debug also alloc;
#                    and atomics, which is not run unless named
#   JOBS=2           how many stages run at a time (as many as there are cores
#                    and memory for)
#
# What the selftests tell of waiting and fairness goes to build/histograms-*.txt.
. "$(dirname "$0")/lib.sh"
export CARGO_TARGET_DIR=$BUILD/cargo

export KERNEL=${KERNEL:-test}
# The long ones first. The hang guards are in seconds without any progress, for
# a VM and for a program in it: what fills all of the device's memory takes its
# time on the debug kernel.
case $KERNEL in
debug)
	stages='selftests-late-acks selftests-small-vram selftests alloc selftests-v3 removal selftests-two-gpus'
	parts=6 mem=6 vm_limit=3600 limit=1800 scale=RSVM_SCALE=4 vram='--vram 128M'
	;;
*)
	stages='selftests-late-acks selftests-small-vram selftests selftests-v3 model kunit compile-fail removal selftests-two-gpus'
	parts=4 mem=4 vm_limit=1200 limit=600 scale='' vram=''
	;;
esac
STAGES=${STAGES:-$stages}

# add STAGE PASSED FAILED SKIPPED STATUS : a stage that failed without saying
# which test did counts as one failure.
add() {
	local f=$3
	[ "$5" = 0 ] || [ "$f" -gt 0 ] || f=1
	[ "$2" -gt 0 ] || [ "$f" -gt 0 ] || { say "$1: ran no test"; f=1; }
	echo "$2 $f $4" >> "$results/$run"
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
		[ "$status" = 0 ] || { grep -nE -A20 'panicked|^error|FAILED' "$log" | head -n 80 >&2 || true; }
		add "$crate" \
			"$(awk '/^test result:/ {n += $4} END {print n + 0}' "$log")" \
			"$(awk '/^test result:/ {n += $6} END {print n + 0}' "$log")" \
			"$(awk '/^test result:/ {n += $8} END {print n + 0}' "$log")" "$status"
	done
}

# KUnit and doctests of the kernel crate at boot, those of the driver at insmod.
# Doctests of files that the project did not write run too and are not counted.
stage_kunit() {
	local log=$BUILD/log/kunit.log status=0 own suites suite
	say "KUnit and doctests"
	# Two nodes, so that it makes a difference on which one something is.
	LOG=kunit CMD=true GPU=0 APPEND='kunit.autorun=1 numa=fake=2' "$TOP/scripts/vm-run.sh" || status=$?
	# Again with a copy of each page for the device: only that shows a copy made too early.
	LOG=kunit-bounce CMD=true GPU=0 APPEND='kunit.autorun=1 kunit.filter_glob=rust_mm_migrate_bounce swiotlb=force' \
		"$TOP/scripts/vm-run.sh" || status=$?
	own=$(cd "$TOP/rust" && find kernel -name '*.rs' | sed 's|[/.]|_|g' | paste -sd '|')
	suites=$(grep -rhoE 'kunit_tests\([a-z0-9_]+' "$TOP/rust" "$TOP/patches" | sed 's/.*(//' | paste -sd '|')
	cat "$BUILD"/log/kunit{,-bounce}-console | tr -d '\r' | sed 's/^\[ *[0-9.]*\] //' | awk -v own="rust_doctest_($own)_[0-9]" \
		-v suites="^($suites|rsvm.*)\$" '
		/# Subtest: / { suite = $NF }
		/^ +(not )?ok [0-9]+ / && (suite ~ suites || $0 ~ own) { print suite ": " $0 }
		' > "$log"
	for suite in rust_mm rsvm rust_doctests_kernel; do
		grep -q "^$suite" "$log" || { say "KUnit: nothing of $suite ran"; status=1; }
	done
	grep -q 'Subtest: rust_mm_migrate_bounce' "$BUILD/log/kunit-bounce-console" ||
		{ say "KUnit: nothing ran with a copy of each page"; status=1; }
	grep ': *not ok' "$log" >&2 || true
	grep -h -A 6 'FAILED at ' "$BUILD"/log/kunit{,-bounce}-console | head -n 60 >&2 || true
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

# selftest STAGE ARGS... : the selftests in the VM that vm describes; run.sh gets ARGS
selftest() {
	local stage=$1 log=$BUILD/log/$1.log status=0 line
	say "$stage: booting the VM"
	env LOG="$stage" TIMEOUT="${TIMEOUT:-$vm_limit}" MEM="${mem}G" SWAP_MIB=1024 FILES="$BUILD/selftests" "${vm[@]}" \
		CMD="$scale sh selftests/run.sh -t $limit ${*:2}" "$TOP/scripts/vm-run.sh" > "$log" 2>&1 || status=$?
	tr -d '\r' < "$log" | sed -n 's/^# histogram: //p' > "$BUILD/histograms-$stage.txt"
	[ -s "$BUILD/histograms-$stage.txt" ] || rm "$BUILD/histograms-$stage.txt"
	grep -E '^(not ok|# .*SKIP|ok .* # SKIP)|_test\.c:[0-9]+:|vm-run: (.* )?(guest|kernel|kmemleak)' "$log" | head -n 60 >&2 || true
	line=$(tr -d '\r' < "$log" | sed -n 's/^selftests: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' | tail -n 1)
	# shellcheck disable=SC2086 # three numbers
	set -- ${line:-0 1 0}
	[ "$status" = 0 ] || { [ -n "$line" ] && [ "$2" -gt 0 ]; } || tail -n 60 "$log" >&2
	add "$stage" "$1" "$2" "$3" "$status"
}

# All programs, in several VMs. For every stage, vm is what its VM has of its own.
stage_selftests() { vm=(VGPU_ARGS="${VGPU_ARGS:-$vram}"); selftest "selftests-$1" -p "$1/$parts"; }

# The page-table formats differ; what faults, maps and unmaps runs on both.
stage_selftests-v3() { vm=(VGPU_ARGS="--mmu 3 $vram"); selftest selftests-v3 memory mm fault stats; }

# Acknowledgements of invalidates and replays take their time, and so do atomics.
stage_selftests-late-acks() {
	local scale="$scale RSVM_ALL=1"
	vm=(VGPU_ARGS='--ack-delay 2ms --atomic-window 100us')
	selftest selftests-late-acks \
		atomic:-vANON_add_64,-vTHP_cas_32,-vVRAM_xchg_64,-vFORKED_or_32,-vPRIVATE_FILE_max_64 \
		atomic_mm atomic_order atomic_fair:-vthreads_8_all race migrate:-tfence_is_anywhere
}

stage_selftests-two-gpus() { vm=(VGPUS=2); selftest selftests-two-gpus atomic_peers; }

# More memory than VRAM, and little RAM that can be fragmented; then the device
# is pulled out.
stage_selftests-small-vram() { vm=(MEM=1536M VGPU_ARGS='--vram 16M'); selftest selftests-small-vram; }

# The device vanishes from the bus.
stage_removal() { vm=(VGPU_ARGS='--remove-at-fault 3000'); selftest removal removal; }

# Allocations of the module fail.
stage_alloc() { vm=(VGPU_ARGS='--vram 16M'); selftest alloc alloc alloc_move; }

# Every atomic in every kind of memory with every number of threads, where
# the program otherwise pairs them.
stage_atomics() { vm=(VGPU_ARGS="$vram"); scale+=' RSVM_ALL=1'; selftest atomics atomic; }

for stage in $STAGES; do
	declare -F "stage_$stage" >/dev/null || die "no stage named '$stage'"
done
"$TOP/scripts/buildroot.sh"
"$TOP/scripts/user.sh" vgpu &
pids=($!)
"$TOP/scripts/user.sh" lib &
pids+=($!)
"$TOP/scripts/kernel.sh" build "$KERNEL"
"$TOP/scripts/user.sh" selftests
for pid in "${pids[@]}"; do
	wait "$pid"
done

results=$(mktemp -d "$BUILD/results.XXXXXX")
trap 'rm -rf "$results"' EXIT
# A VM fills both CPUs of two for a part of its time alone.
room=$(awk -v mem="$mem" '/^MemAvailable/ {print int($2 / 1048576 / (mem + 1))}' /proc/meminfo)
JOBS=$((room < 1 ? 1 : room < JOBS ? room : JOBS))
say "$JOBS stages at a time"
all=()
for stage in $STAGES; do
	runs=("$stage")
	[ "$stage" != selftests ] || mapfile -t runs < <(seq -f 'selftests %g' "$parts")
	for run in "${runs[@]}"; do
		while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do
			wait -n || true
		done
		all+=("$run")
		# shellcheck disable=SC2086 # stage and part
		( set -- $run; "stage_$1" "${@:2}"; : > "$results/$run.end" ) &
	done
done
wait
for run in "${all[@]}"; do
	[ -e "$results/$run.end" ] || { say "$run: came to no end"; echo 0 1 0 >> "$results/$run"; }
done
read -r passed failed skipped < <(cat "$results"/* | awk '{p += $1; f += $2; s += $3} END {print p, f, s}')
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
