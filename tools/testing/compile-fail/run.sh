#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# Misuse of the kernel abstractions that must not compile.
#
#   run.sh TREE     TREE is a kernel tree in which the driver was built
#
# Every file in cases/ names in its first line the error that the compiler has
# to give, and it alone: "// error: E0505", or "// error: none" for what has to
# compile. Code that cases share is in cases/lib/. The compiler gets the options
# that Kbuild gave it for the driver.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 TREE" >&2; exit 2; }
cases=$(cd "$(dirname "$0")" && pwd)/cases
cd "$1"
saved=drivers/gpu/drm/rsvm/.rsvm.o.cmd
[ -e "$saved" ] || { echo "$saved is missing in $1: build the driver first" >&2; exit 2; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export RUSTC_BOOTSTRAP=1 OBJTREE=$PWD RUST_MODFILE=$out/case

# The first command, without where its output goes and what it compiles.
command=$(sed -n 's/^savedcmd_[^ ]* := //p' "$saved" | sed 's/ ;.*//; s/^.* rustc /rustc /
	s/ --out-dir [^ ]*//; s/ --emit=[^ ]*//g; s/ [^ ]*\.rs *$//')

failed=0
for case in "$cases"/*.rs; do
	name=$(basename "$case" .rs)
	expected=$(sed -n '1s|^// error: ||p' "$case")
	status=0
	eval "$command" --emit=metadata --out-dir "$out" --crate-name "$name" '"$case"' \
		> "$out/log" 2>&1 || status=$?
	given=$(grep -v '^error: aborting due to' "$out/log" | grep -oE '^error(\[E[0-9]+\])?' |
		sed 's/^error$/other/; s/error\[\(.*\)\]/\1/' | sort -u | paste -sd ' ' || true)
	[ "$status" != 0 ] || given=none
	if [ -n "$expected" ] && [ "$given" = "$expected" ]; then
		echo "ok $name: $given"
	else
		echo "not ok $name: expected ${expected:-an error to be named}, got ${given:-nothing}"
		sed 's/^/# /' "$out/log"
		failed=1
	fi
done
exit $failed
