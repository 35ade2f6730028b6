#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# rustfmt and clippy of user-space and kernel code, rustdoc's warnings,
# checkpatch, shellcheck. Every finding is a failure.
. "$(dirname "$0")/lib.sh"
export CARGO_TARGET_DIR=$BUILD/cargo
bad=0

check() {
	local name=$1; shift
	if "$@" > "$BUILD/log/lint.log" 2>&1; then
		say "$name: clean"
	else
		bad=1
		say "$name:"
		head -n 80 "$BUILD/log/lint.log" >&2
	fi
}
mkdir -p "$BUILD/log"

mapfile -t crates < <(git -C "$TOP" ls-files '*/Cargo.toml' | xargs -n 1 dirname)
for crate in "${crates[@]}"; do
	IN_ROOT_DIR=$TOP/$crate check "$crate rustfmt" in_root cargo fmt --check
	IN_ROOT_DIR=$TOP/$crate check "$crate clippy" in_root cargo clippy --release --locked --all-targets -- -D warnings
done

# Off: sourced files it does not follow, literal $ that is meant (SC2016), traps
# taken for dead code (SC2317), QEMU's commas (SC2054).
mapfile -t sh < <(git -C "$TOP" ls-files '*.sh' .ci/run)
check shellcheck in_root shellcheck -x -e SC1091,SC2016,SC2317,SC2054 "${sh[@]}"

"$TOP/scripts/kernel.sh" build test
tree=$(readlink -f "$BUILD/kernel-test/source")
mapfile -t rs < <(git -C "$TOP" ls-files 'rust/*.rs' 'drivers/*.rs')
check "kernel rustfmt" in_root rustfmt --edition 2021 --check --config-path "$tree/.rustfmt.toml" "${rs[@]}"
check "kernel clippy" "$TOP/scripts/kernel-lint.sh" clippy "$tree" "${rs[@]}"
check "kernel rustdoc" "$TOP/scripts/kernel-lint.sh" rustdoc "$tree" "${rs[@]}"
mapfile -t c < <(git -C "$TOP" ls-files '*.c' '*.h' | grep -vE '^tools/lib')
[ "${#c[@]}" = 0 ] || check checkpatch in_root perl "$tree/scripts/checkpatch.pl" --no-tree --terse --strict \
	--ignore FILE_PATH_CHANGES,SPDX_LICENSE_TAG,PREFER_DEFINED_ATTRIBUTE_MACRO -f "${c[@]}"
[ "$bad" = 0 ] && echo "lint: clean" || echo "lint: findings, see above"
exit "$bad"
