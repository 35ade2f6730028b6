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
	quietly bench in_root make -C tools/rsvm-bench O="$BUILD/lib" \
		KERNEL="$(readlink -f "$BUILD/kernel-test/source")"
}

selftests() {
	local tree
	tree=$(readlink -f "$BUILD/kernel-${KERNEL:-test}/source")
	say "selftests: building"
	quietly selftests in_root make -C tools/testing/selftests/rsvm \
		O="$BUILD/selftests" KERNEL="$tree"
}

case ${1:-} in
vgpu|lib|bench|selftests) with_lock "user-$1" "$1" ;;
*) die "usage: user.sh vgpu|lib|bench|selftests" ;;
esac
