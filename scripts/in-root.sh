#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Run a command inside the build root, in the current directory.
. "$(dirname "$0")/lib.sh"
"$TOP/scripts/buildroot.sh"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$BUILD/cargo}
IN_ROOT_DIR=$PWD in_root "$@"
