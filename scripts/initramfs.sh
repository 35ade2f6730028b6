#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Make the guest's root file system: busybox, an init and the rsvm module.
#
#   initramfs.sh CONFIG OUT FILES...   FILES are put into /root
. "$(dirname "$0")/lib.sh"

config=$1 out=$2
shift 2

work=$(mktemp -d "$BUILD/initramfs.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bin,sbin,proc,sys,dev,tmp,root,mnt,run,lib/modules,etc}
cp "$ROOT_LINK/usr/bin/busybox" "$work/bin/busybox"
install -m 755 "$TOP/scripts/guest-init.sh" "$work/init"
cp "$BUILD/kernel-$config"/*.ko "$work/lib/modules/"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' > "$work/etc/passwd"
for f in "$@"; do
	[ -e "$f" ] || die "FILES names '$f', which does not exist"
	cp -a "$f" "$work/root/"
done
# It is static, and so runs here.
busybox=$ROOT_LINK/usr/bin/busybox
(cd "$work" && find . | "$busybox" cpio -o -H newc -R 0:0) > "$out.part"
mv "$out.part" "$out"
