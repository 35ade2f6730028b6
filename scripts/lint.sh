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
# checkpatch_of IGNORE FILES... : in a copy, since it leaves a cache of names where it runs.
checkpatch_of() {
	in_root sh -c 'cd "$1"; tree=$2 ignore=$3; shift 3
		cp --parents "$@" /tmp && cd /tmp &&
		perl "$tree/scripts/checkpatch.pl" --no-tree --terse --strict --show-types --ignore "$ignore" -f "$@"' \
		sh "$TOP" "$tree" "FILE_PATH_CHANGES,SPDX_LICENSE_TAG,PREFER_DEFINED_ATTRIBUTE_MACRO${1:+,$1}" "${@:2}"
}
# Programs: memory that a device changes is volatile; the harness's macros are
# statements (ASSERT_*: braces), definitions or types (FIXTURE_*); libc's and
# ELF's names are as they are; the kernel's BIT() and __func__ habits are its own.
program=VOLATILE,BRACES,SPACING,COMPLEX_MACRO,MACRO_WITH_FLOW_CONTROL,MACRO_ARG_REUSE
program+=,MULTISTATEMENT_MACRO_USE_DO_WHILE,TRAILING_SEMICOLON,AVOID_EXTERNS,CAMELCASE,BIT_MACRO,EMBEDDED_FUNCTION_NAME,UNNECESSARY_ELSE
mapfile -t c < <(git -C "$TOP" ls-files '*.c' '*.h' | grep -vE '^tools/')
mapfile -t -O "${#c[@]}" c < <(git -C "$TOP" ls-files 'tools/*/test_modules/*.c')
check "kernel checkpatch" checkpatch_of '' "${c[@]}"
mapfile -t c < <(git -C "$TOP" ls-files 'tools/*.c' 'tools/*.h' | grep -vE '^tools/lib|/test_modules/')
check "user-space checkpatch" checkpatch_of "$program" "${c[@]}"
[ "$bad" = 0 ] && echo "lint: clean" || echo "lint: findings, see above"
exit "$bad"
