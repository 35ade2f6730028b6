#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Make the build root: a Debian 13 tree with the kernel source, the Rust and
# LLVM tools that build it, and QEMU. Nothing outside it is used to build, so
# every host builds the same thing.
. "$(dirname "$0")/lib.sh"

PACKAGES="qemu-system-x86 qemu-user linux-source-7.3
rustc rust-src cargo rustfmt rust-clippy bindgen
clang lld llvm libclang-dev
make gcc libc6-dev flex bison bc libelf-dev libssl-dev pahole
cpio kmod busybox-static rsync python3 perl git patch xz-utils zstd
shellcheck ca-certificates"

key=$(hash_of "$0")
root=$CACHE/root-$key

host_tools() {
	local missing=()
	command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
	command -v bwrap >/dev/null || missing+=(bubblewrap)
	if [ "$(id -u)" != 0 ]; then
		command -v newuidmap >/dev/null || missing+=(uidmap)
	fi
	[ "${#missing[@]}" -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "missing on this host: ${missing[*]}
Install with: sudo apt-get install ${missing[*]}"
	say "installing ${missing[*]}"
	run_logged "$BUILD/log/host-tools.log" sh -c \
		"apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${missing[*]}"
}

# The host's own mirror serves trixie too: ask apt, so that no host name has
# to be written down here.
mirror() {
	apt-get indextargets --format '$(SITE) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
		awk '$2 == "Debian" {print $1; exit}'
}

make_root() {
	local site mode=unshare tar=$root.part.tar suite=trixie
	need_disk_gib 12
	site=$(mirror)
	[ -n "$site" ] || die "apt on this host names no Debian mirror.
Run 'apt-get update' as root with a Debian mirror in /etc/apt/sources.list.d, then again."
	[ "$(id -u)" = 0 ] && mode=root
	say "build root: Debian 13 with kernel source, Rust, LLVM and QEMU (about 2 minutes)"
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -e "$keyring" ] || die "$keyring is missing; install debian-archive-keyring"
	# Only QEMU and the kernel come from backports: taking more pulls
	# libraries after which the kernel's build tools no longer install.
	local pin
	pin=$(mktemp)
	cat > "$pin" <<-PIN
		Package: src:qemu src:linux src:seabios
		Pin: release n=$suite-backports
		Pin-Priority: 600
	PIN
	rm -rf "$root.part" "$tar"
	# shellcheck disable=SC2086 # the list is meant to be split
	run_logged "$BUILD/log/buildroot.log" mmdebstrap --mode=$mode --variant=apt \
		--keyring="$keyring" --aptopt='Acquire::Retries "5"' \
		--setup-hook='mkdir -p "$1/etc/apt/preferences.d"' \
		--setup-hook="upload '$pin' /etc/apt/preferences.d/rsvm" \
		--include="$(echo $PACKAGES | tr ' ' ,)" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		$suite "$tar" \
		"deb [signed-by=$keyring] $site $suite main" \
		"deb [signed-by=$keyring] $site $suite-backports main"
	rm -f "$pin"
	mkdir -p "$root.part"
	say "build root: unpacking"
	tar -C "$root.part" -xf "$tar" --no-same-owner --exclude='./dev/*'
	rm -f "$tar"
	# Registries may be reached through an authority that this host trusts.
	cp /etc/ssl/certs/ca-certificates.crt "$root.part/etc/ssl/certs/ca-certificates.crt"
	mv "$root.part" "$root"
}

host_tools
if [ ! -d "$root" ]; then
	with_lock root eval '[ -d "$root" ] || make_root'
fi
if [ "$(readlink "$ROOT_LINK" 2>/dev/null)" != "$root" ]; then
	ln -sfn "$root" "$ROOT_LINK"
	# What this one replaces is of no more use.
	find "$CACHE" -maxdepth 1 -name 'root-*' ! -path "$root*" -exec rm -rf {} +
fi
