#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Build the kernel with the project in it.
#
#   kernel.sh build CONFIG     CONFIG is test or debug (default test)
#   kernel.sh modules CONFIG   only rsvm.ko, for a quick look at a driver edit
#   kernel.sh overlay DIR      put the project into another 7.3 tree
#   kernel.sh run CONFIG CMD   run CMD in the configured tree (rustdoc, checks)
#
# One source tree is kept for each configuration. Only files whose content
# changed are copied into it, so make rebuilds only what they touch. A build
# whose every input is as it was when it last succeeded does not begin.
. "$(dirname "$0")/lib.sh"

# What the kernel is built from, and what else belongs into a kernel tree.
own_modules=tools/testing/selftests/rsvm/test_modules
BUILD_DIRS="rust drivers include $own_modules"
OVERLAY_DIRS="rust drivers include Documentation tools/testing/selftests/rsvm"

# The pristine 7.3 source: from the build root, KERNEL_TARBALL or KDIR.
pristine() {
	local tarball=${KERNEL_TARBALL:-} key
	if [ -n "${KDIR:-}" ]; then
		check_version "$KDIR"
		[ ! -e "$KDIR/$ORIGINALS" ] || die "KDIR=$KDIR has the project in it already; give a tree without"
		check_unbuilt "$KDIR"
		realpath "$KDIR"
		return
	fi
	if [ -z "$tarball" ]; then
		tarball=$(find "$ROOT_LINK/usr/src/" -name 'linux-source-7.3.tar.*' 2>/dev/null | head -n 1)
		[ -n "$tarball" ] || die "the Debian mirror no longer carries the 7.3 kernel source.
Give any 7.3 release with KERNEL_TARBALL=/path/linux-7.3.x.tar.xz or KDIR=/path/linux-7.3.x."
	fi
	[ -r "$tarball" ] || die "KERNEL_TARBALL=$tarball cannot be read"
	key=$(stat -Lc '%s %Y' "$tarball" | sha256sum | cut -c1-16)
	local dir=$CACHE/linux-$key
	if [ ! -d "$dir" ]; then
		need_disk_gib 6
		say "kernel source: unpacking"
		rm -rf "$dir.part"
		mkdir -p "$dir.part"
		XZ_DEFAULTS=-T0 tar -C "$dir.part" --strip-components=1 -xf "$tarball" --no-same-owner ||
			die "$tarball does not unpack; is it whole?"
		check_version "$dir.part"
		mv "$dir.part" "$dir"
	fi
	printf '%s\n' "$dir"
}

check_version() {
	local v
	if [ ! -f "$1/Makefile" ] || [ ! -d "$1/rust/kernel" ]; then die "$1 is no kernel tree"; fi
	v=$(awk '/^VERSION =/ {v=$3} /^PATCHLEVEL =/ {p=$3} END {print v "." p}' "$1/Makefile")
	[ "$v" = 7.3 ] || die "$1 is Linux $v; rsvm needs 7.3"
}

# What another configuration or compiler built must not get into the build.
check_unbuilt() {
	local f
	for f in .config include/config include/generated arch/x86/include/generated; do
		[ ! -e "$1/$f" ] || die "$1 was configured or built ($f is there); run 'make mrproper' in it or give a clean tree"
	done
}

# Where an overlay keeps the files that it patched.
ORIGINALS=.rsvm-originals

original() { if [ -e "$1/$ORIGINALS/$2" ]; then echo "$1/$ORIGINALS/$2"; else echo "$1/$2"; fi; }

# stage SOURCE DIR DIRS : what the project's DIRS add to SOURCE and patches change in it.
stage() {
	local source=$1 stage=$2 dirs=$3 patch file dir
	rm -rf "$stage"
	mkdir -p "$stage"
	for patch in "$TOP"/patches/*.patch; do
		[ -e "$patch" ] || continue
		sed -n 's|^--- a/||p' "$patch" | while read -r file; do
			mkdir -p "$stage/$(dirname "$file")"
			[ -e "$stage/$file" ] || cp -p "$(original "$source" "$file")" "$stage/$file"
		done
		patch -d "$stage" -p1 -s --no-backup-if-mismatch < "$patch" ||
			die "$patch does not apply to $source"
	done
	for dir in $dirs; do
		[ -d "$TOP/$dir" ] || continue
		mkdir -p "$stage/$dir"
		(cd "$TOP/$dir" && find . -type f \( -name '*.rs' -o -name '*.c' -o -name '*.h' \
			-o -name '*.rst' -o -name 'Makefile' -o -name 'Kconfig' -o -name 'config' \) -print0 |
			tar -cf - --null -T -) | tar -C "$stage/$dir" -xf -
	done
}

# overlay SOURCE TREE : bring TREE to SOURCE plus the project. TREE may share its
# files with SOURCE, so that none is ever written to.
overlay() {
	local source=$1 tree=$2 stage=$2/.rsvm-stage
	stage "$source" "$stage" "$BUILD_DIRS"
	(cd "$stage" && find . -type f | sort) > "$tree/.rsvm-files.new"
	# What an earlier overlay put there and this one does not goes back.
	if [ -e "$tree/.rsvm-files" ]; then
		comm -23 "$tree/.rsvm-files" "$tree/.rsvm-files.new" | while read -r f; do
			rm -f "$tree/$f"
			[ ! -e "$source/$f" ] || cp "$source/$f" "$tree/$f"
		done
	fi
	while read -r f; do
		if ! cmp -s "$stage/$f" "$tree/$f"; then
			mkdir -p "$tree/$(dirname "$f")"
			cp --remove-destination "$stage/$f" "$tree/$f"
			[ -n "${QUIET_OVERLAY:-}" ] || say "overlay: ${f#./}"
		fi
	done < "$tree/.rsvm-files.new"
	mv "$tree/.rsvm-files.new" "$tree/.rsvm-files"
	rm -rf "$stage"
}

# manifest TREE : what tells whether a file changed, one line each.
manifest() { (cd "$1" && find . -name .git -prune -o ! -type d -printf '%p\t%s %T@\n' | sort); }

# refresh SOURCE TREE : bring TREE to a SOURCE of the user's that may have
# changed since. Times are not kept, so that make sees older files as new.
refresh() {
	local file
	manifest "$1" > "$2/.rsvm-source.new"
	comm -3 "$2/.rsvm-source" "$2/.rsvm-source.new" | sed 's/^\t//' | cut -f 1 | sort -u |
		while read -r file; do
			rm -f "$2/$file"
			[ ! -e "$1/$file" ] || { mkdir -p "$2/$(dirname "$file")" && cp -d "$1/$file" "$2/$file"; }
		done
	mv "$2/.rsvm-source.new" "$2/.rsvm-source"
}

# is_unpacked SOURCE : whether it was a tarball, and so does not change
is_unpacked() { [ "$(dirname "$1")" = "$CACHE" ]; }

# tree_of CONFIG SOURCE : an unpacked tarball is named by its content already.
tree_of() {
	local name
	name=$(basename "$2")
	is_unpacked "$2" || name=kdir-$(printf '%s' "$2" | sha256sum | cut -c1-16)
	printf '%s\n' "$CACHE/kernel-$1-$name"
}

in_tree() { IN_ROOT_DIR=$tree in_root "$@"; }

prepare_tree() {
	local source=$1
	if [ ! -d "$tree" ]; then
		need_disk_gib 8
		say "kernel ($config): copying the source tree"
		rm -rf "$tree.part"
		if is_unpacked "$source"; then
			cp -al "$source" "$tree.part"
		else
			cp -a --reflink=auto "$source" "$tree.part"
			# A history would only get into the version's name.
			rm -rf "$tree.part/.git"
			manifest "$source" > "$tree.part/.rsvm-source"
		fi
		mv "$tree.part" "$tree"
		QUIET_OVERLAY=1 overlay "$source" "$tree"
	else
		is_unpacked "$source" || refresh "$source" "$tree"
		overlay "$source" "$tree"
	fi
	configure
}

configure() {
	local key fragments=("$TOP/scripts/config/base.config" "$TOP/scripts/config/$config.config") missing
	key=$(cd "$tree" && { cat "${fragments[@]}"; grep '/Kconfig' .rsvm-files | xargs cat; } | sha256sum)
	[ "$(cat "$tree/.rsvm-config" 2>/dev/null)" = "$key" ] && return
	say "kernel ($config): configuring"
	cat "${fragments[@]}" > "$tree/.rsvm-fragments"
	run_logged "$BUILD/log/kernel-$config-config.log" in_tree \
		make -s LLVM=1 ARCH=x86_64 KCONFIG_ALLCONFIG=.rsvm-fragments allnoconfig
	missing=$(grep '^CONFIG_.*=[ym]$' "$tree/.rsvm-fragments" | grep -vxFf "$tree/.config" || true)
	[ -z "$missing" ] || die "the kernel's Kconfig dropped: $(echo "$missing" | tr '\n' ' ')"
	echo "$key" > "$tree/.rsvm-config"
}

# kmake ARGS... : make as each step of the build calls it
kmake() {
	in_tree make -j"$JOBS" LLVM=1 ARCH=x86_64 KBUILD_BUILD_TIMESTAMP='1970-01-01' \
		KBUILD_BUILD_USER=rsvm KBUILD_BUILD_HOST=rsvm "$@"
}

# compile STEPS TARGETS... : with a line of progress every 15 s. STEPS is how
# many objects and archives there are to make, if they were counted.
compile() {
	local log=$BUILD/log/kernel-$config.log steps=$1 step pid n before start=$SECONDS
	shift
	step="^  ${steps:+(CC|AS|AR) }"
	before=$(grep -cE "$step" "$log" || true)
	kmake "$@" >> "$log" 2>&1 &
	pid=$!
	trap 'kill $pid 2>/dev/null || true' INT TERM
	until ends_within 15 "$pid"; do
		n=$(($(grep -cE "$step" "$log" || true) - before))
		[ "${steps:-$n}" -ge "$n" ] || n=$steps
		say "kernel ($config): $n${steps:+ of $steps} steps, $((SECONDS - start)) s: $(tail -n 1 "$log" | cut -c1-60)"
	done
	if ! wait $pid; then
		grep -nE -A12 '(^|[^a-z])(error|Error|warning)(\[|:)' "$log" | head -n 120 >&2 || true
		tail -n 5 "$log" >&2
		die "the kernel build failed; the whole log is in $log"
	fi
}

# count_steps TARGETS... : what make would do, once its tools are there. Rust's part
# stays out, which make would do in fact; with these flags the kernel's Makefile
# does not call itself without the others.
count_steps() {
	kmake -n -k -rR --no-print-directory -o prepare CONFIG_RUST= CONFIG_DRM_RSVM= "$@" 2>/dev/null |
		grep -cE "echo '  (CC|AS|AR) " || true
}

# input_key SOURCE : one hash over all that the build depends on.
input_key() {
	local source=$1
	{
		printf '%s\n' "$source"
		is_unpacked "$source" || manifest "$source"
		# shellcheck disable=SC2086 # a list
		cd "$TOP" && key_of $BUILD_DIRS patches scripts/kernel.sh scripts/lib.sh \
			scripts/config/base.config "scripts/config/$config.config"
	} | sha256sum
}

build() {
	local source key out=$BUILD/kernel-$config steps=''
	source=$(pristine)
	tree=$(tree_of "$config" "$source")
	key=$(input_key "$source")
	if [ "$(cat "$tree/.rsvm-built" 2>/dev/null)" = "$key" ] && [ "$(cat "$out/key" 2>/dev/null)" = "$key" ]; then
		say "kernel ($config): nothing has changed"
		return
	fi
	rm -f "$tree/.rsvm-built" "$out/key"
	prepare_tree "$source"
	mkdir -p "$BUILD/log"
	: > "$BUILD/log/kernel-$config.log"
	if [ "$1" = modules ]; then
		say "kernel ($config): building rsvm.ko"
		compile '' drivers/gpu/drm/rsvm/rsvm.ko
	else
		if [ ! -e "$tree/vmlinux" ]; then
			say "kernel ($config): building tools and the crates of Rust"
			compile '' prepare
			steps=$(count_steps vmlinux modules)
		fi
		say "kernel ($config): building${steps:+ the rest: $steps steps}"
		compile "$steps" vmlinux modules
		compile '' M="$own_modules"
	fi
	mkdir -p "$out"
	ln -sfn "$tree" "$out/source"
	if [ "$1" = modules ]; then
		cp "$tree/drivers/gpu/drm/rsvm/rsvm.ko" "$out/"
	else
		rm -f "$out"/*.ko
		cp "$tree/vmlinux" "$out/"
		for dir in . "$own_modules"; do
			(cd "$tree/$dir" && sed 's|\.o$|.ko|' modules.order | xargs cp -t "$out/")
		done
		printf '%s\n' "$key" | tee "$tree/.rsvm-built" > "$out/key"
	fi
	say "kernel ($config): done"
}

command=${1:-build}
config=${2:-test}
case $command in
build|modules)
	[ -f "$TOP/scripts/config/$config.config" ] || die "no configuration named '$config' (test, debug)"
	"$TOP/scripts/buildroot.sh"
	with_lock "kernel-$config" build "$command"
	;;
overlay)
	[ -n "${2:-}" ] || die "usage: make overlay KDIR=/path/to/linux-7.3"
	check_version "$2"
	say "overlay into $2"
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	stage "$2" "$tmp" "$OVERLAY_DIRS"
	sed -n 's|^--- a/||p' "$TOP"/patches/*.patch | sort -u | while read -r file; do
		mkdir -p "$2/$ORIGINALS/$(dirname "$file")"
		[ -e "$2/$ORIGINALS/$file" ] || cp -p "$2/$file" "$2/$ORIGINALS/$file"
	done
	cp -a "$tmp/." "$2/"
	say "done; the files that were patched lie in $2/$ORIGINALS as they were"
	;;
run)
	shift 2
	"$TOP/scripts/buildroot.sh"
	tree=$(tree_of "$config" "$(pristine)")
	# Whatever it does, the next build looks.
	rm -f "$tree/.rsvm-built"
	in_tree "$@"
	;;
*) die "usage: kernel.sh build|modules|overlay|run ..." ;;
esac
