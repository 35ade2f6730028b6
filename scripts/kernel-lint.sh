#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# What clippy and rustdoc say of the project's Rust files in a kernel tree that
# was built; the kernel's own files are not judged.
#
#   kernel-lint.sh clippy|rustdoc TREE FILES...
#
# Runs the compiler's own command of each crate with the other tool, since
# make's CLIPPY=1 would rebuild the tree and rustdoc's target all of it.
. "$(dirname "$0")/lib.sh"

tool=$1 tree=$2
shift 2
out=$tree/.rsvm-lint
mkdir -p "$out"

# command_of OBJECT : how the crate was compiled, without where to put it.
command_of() {
	sed -n "1{s/^savedcmd_[^ ]* := //;s/ ;.*//;p}" "$tree/$(dirname "$1")/.$(basename "$1").cmd" |
		sed -E 's/--out-dir [^ ]+//; s/--emit=[^ ]+//g'
}

run() {
	local command
	command=$(command_of "$1")
	case $tool in
	clippy) command=${command/ rustc / clippy-driver } command+=" --emit=metadata --out-dir $out" ;;
	rustdoc)
		command=${command/ rustc / rustdoc --document-private-items }
		command=$(sed -E 's/--crate-type rlib//; s/-Zbinary_dep_depinfo=y//; s/-C(embed-bitcode|lto|codegen-units|opt-level|debug-assertions|overflow-checks)=[^ ]+//g' <<< "$command")
		command+=" --output $out/doc"
		;;
	esac
	IN_ROOT_DIR=$tree in_root sh -c "export RUSTC_BOOTSTRAP=1 CLIPPY_CONF_DIR=.; $command --error-format=short" 2>&1
}

log=$out/$tool.log
status=0
{ run rust/kernel.o && run drivers/gpu/drm/rsvm/rsvm.o; } > "$log" || status=$?
found=$(printf '%s\n' "$@" | sed 's|$|:|' | grep -Ff - "$log" | grep -E ': (warning|error)' || true)
[ -z "$found" ] || { printf '%s\n' "$found"; exit 1; }
[ "$status" = 0 ] || { tail -n 20 "$log"; exit "$status"; }
