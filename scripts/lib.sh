# SPDX-License-Identifier: GPL-2.0
# Shared by every build script: where things lie, how to report, how to lock,
# how to enter the build root. Source it; do not run it.
# shellcheck shell=bash

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$TOP/build
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rsvm
JOBS=${JOBS:-$(nproc)}
export LC_ALL=C.UTF-8
# What make tells its children is not meant for the builds in here.
unset MAKEFLAGS MFLAGS MAKELEVEL

mkdir -p "$BUILD" "$CACHE/home" "$CACHE/cargo"
CACHE=$(cd "$CACHE" && pwd -P)
ROOT_LINK=$CACHE/root

say() { printf '[%s] %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
die() { printf '\nerror: %s\n' "$*" >&2; exit 1; }

# hash_of FILE... : one hash over contents, for cache keys.
hash_of() { cat -- "$@" | sha256sum | cut -c1-16; }

# key_of PATH... : one hash over the build root and the files at and below PATHs,
# by name and content.
key_of() {
	{ readlink "$ROOT_LINK"; find "$@" -type f -print0 | sort -z | xargs -0 sha256sum; } |
		sha256sum | cut -c1-32
}

# with_lock NAME CMD... : run CMD while no other build runs CMD under NAME.
with_lock() {
	local name=$1; shift
	exec {lock_fd}>"$CACHE/$name.lock"
	if ! flock -n "$lock_fd"; then
		say "another build holds '$name'; waiting for it"
		flock "$lock_fd"
	fi
	"$@"
	exec {lock_fd}>&-
}

# need_disk_gib N : stop early, with advice, rather than late with ENOSPC.
need_disk_gib() {
	local free
	free=$(df -Pk "$CACHE" | awk 'NR==2 {print int($4 / 1048576)}')
	[ "$free" -ge "$1" ] || die "$CACHE has $free GiB free, this step needs $1 GiB.
Free some space, or set XDG_CACHE_HOME to a larger disk."
}

# run_logged LOG CMD... : progress goes to LOG; on failure its end is shown.
run_logged() {
	local log=$1; shift
	mkdir -p "$(dirname "$log")"
	if ! "$@" >"$log" 2>&1; then
		tail -n 40 "$log" >&2
		die "this step failed; the whole log is in $log"
	fi
}

# ends_within SECONDS PID
ends_within() { timeout --foreground "$1" tail --pid="$2" -s 0.05 -f /dev/null; }

# in_root CMD... : run CMD inside the build root with the project, the cache
# and the network visible at their usual paths. bubblewrap needs no privilege
# beyond user namespaces, so root and ordinary users share this one way in.
in_root() {
	local dir=${IN_ROOT_DIR:-$TOP} extra=()
	[ -e /dev/kvm ] && extra+=(--dev-bind-try /dev/kvm /dev/kvm)
	bwrap --bind "$ROOT_LINK" / --dev /dev --proc /proc --tmpfs /tmp --tmpfs /run \
		--ro-bind-try /etc/resolv.conf /etc/resolv.conf \
		--ro-bind-try /etc/hosts /etc/hosts \
		--bind "$TOP" "$TOP" --bind "$CACHE" "$CACHE" "${extra[@]}" \
		--setenv HOME "$CACHE/home" --setenv CARGO_HOME "$CACHE/cargo" \
		--setenv XDG_CACHE_HOME "$(dirname "$CACHE")" \
		--setenv PATH /usr/sbin:/usr/bin:/sbin:/bin \
		--unshare-pid --die-with-parent --chdir "$dir" -- "$@"
}
