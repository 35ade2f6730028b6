#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Build what runs in user space.
#
#   user.sh vgpu        the virtual GPU         -> build/bin/rsvm-vgpu
#   user.sh lib         the library and demo    -> build/lib/
#   user.sh selftests   the kernel selftests    -> build/selftests/
#   user.sh bench       the benchmark           -> build/lib/rsvm-bench
. "$(dirname "$0")/lib.sh"
export CARGO_TARGET_DIR=$BUILD/cargo

quietly() { run_logged "$BUILD/log/build-$1.log" "${@:2}"; }

# unless_same NAME PRODUCT INPUT... : build NAME, unless PRODUCT is there and every
# INPUT, of which the paths are relative to the project, is as it was then.
unless_same() {
	local name=$1 product=$2 mark=$BUILD/.key-$1 key
	shift 2
	key=$(cd "$TOP" && key_of scripts/user.sh scripts/lib.sh "$@")
	if [ -e "$product" ] && [ "$(cat "$mark" 2>/dev/null)" = "$key" ]; then
		return
	fi
	rm -f "$mark"
	"$name"
	printf '%s\n' "$key" > "$mark"
}

vgpu() {
	say "virtual GPU: building"
	IN_ROOT_DIR=$TOP/tools/testing/vgpu quietly vgpu in_root cargo build --release --locked
	mkdir -p "$BUILD/bin"
	cp --remove-destination "$CARGO_TARGET_DIR/release/rsvm-vgpu" "$BUILD/bin/"
}

lib() {
	say "library and demo: building"
	quietly lib in_root make -C tools/rsvm-demo O="$BUILD/lib"
}

bench() {
	say "benchmark: building"
	quietly bench in_root make -C tools/rsvm-bench O="$BUILD/lib" KERNEL="$tree"
}

selftests() {
	say "selftests: building"
	quietly selftests in_root make -C tools/testing/selftests/rsvm O="$BUILD/selftests" KERNEL="$tree"
}

what=${1:-}
case $what in
vgpu) make=(unless_same vgpu "$BUILD/bin/rsvm-vgpu" tools/testing/vgpu) ;;
lib) make=(unless_same lib "$BUILD/lib/rsvm-demo" tools/lib/rsvm tools/rsvm-demo include/uapi) ;;
bench)
	tree=$(readlink -f "$BUILD/kernel-test/source")
	make=(bench)
	;;
selftests)
	tree=$(readlink -f "$BUILD/kernel-${KERNEL:-test}/source")
	make=(unless_same selftests "$BUILD/selftests/run.sh" tools/testing/selftests/rsvm include/uapi
		"$tree/tools/testing/selftests/lib.mk" "$tree"/tools/testing/selftests/*.h "$tree/include/uapi/drm"
		"$tree/lib/test_hmm_uapi.h")
	;;
*) die "usage: user.sh vgpu|lib|bench|selftests" ;;
esac
with_lock "user-$what" "${make[@]}"
