#!/usr/bin/env bash
# build.sh [--is-current] OUT: OUT/vmlinuz and OUT/initrd.gz, the tiny guest of tests, demo and benchmarks, for x86-64.
# With --is-current it builds nothing and says by its status whether there is nothing to do.
#
# The kernel is the distribution's own, fetched with apt and unpacked, never installed; so is the static busybox.
# Needs apt, dpkg-deb, gcc with a static libc, cpio, gzip, xz. Does nothing when its inputs have not changed.
set -euo pipefail

only_look=
if [ "${1-}" = --is-current ]; then
  only_look=yes
  shift
fi
[ $# = 1 ] || { echo "usage: $0 [--is-current] OUT" >&2; exit 2; }
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -p -- "$1"
out=$(cd -- "$1" && pwd)

stamp=$(cat -- "$here/witness.c" "$here/init" "$here/build.sh" | sha256sum | cut -d' ' -f1)
if [ -s "$out/vmlinuz" ] && [ -s "$out/initrd.gz" ] && [ "$(cat -- "$out/stamp" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
[ -z "$only_look" ] || exit 1
[ "$(dpkg --print-architecture)" = amd64 ] || { echo "the witness guest is built on amd64 only" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
mkdir -p "$work"/packages "$work"/root "$work"/initrd/{bin,dev,proc,sys,modules}

# The package that the meta package stands for; Ubuntu keeps the modules in a package of their own.
kernel=
for meta in linux-image-cloud-amd64 linux-image-virtual linux-image-amd64; do
  depends=$(apt-cache depends --important "$meta" 2>/dev/null) || continue
  kernel=$(awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }' <<<"$depends")
  [ -z "$kernel" ] || break
done
[ -n "$kernel" ] || { echo "apt knows no kernel image (run apt-get update?)" >&2; exit 1; }
packages=("$kernel" busybox-static)
modules=linux-modules-${kernel#linux-image-}
if apt-cache show "$modules" >/dev/null 2>&1; then packages+=("$modules"); fi
(cd "$work/packages" && apt-get download -qq "${packages[@]}" 2>"$work/apt.log") || { cat "$work/apt.log" >&2; exit 1; }
for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/root"; done

unpacked() { # unpacked PATTERN: the first file of the packages whose path ends so, or nothing
  find "$work/root" -type f -path "*/$1" -print -quit
}

install -m 755 "$(unpacked bin/busybox)" "$work/initrd/bin/busybox"
install -m 755 "$here/init" "$work/initrd/init"
gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -pthread -s -o "$work/initrd/bin/witness" "$here/witness.c"

# In load order. What is built into a kernel (virtio itself from 6.12 on) has no file and needs none.
number=10
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio_balloon evdev button; do
  file=$(unpacked "$module.ko*")
  [ -n "$file" ] || continue
  number=$((number + 1))
  case $file in
    *.xz) xz -dc "$file" ;;
    *.zst) zstd -dcq "$file" ;;
    *.gz) gzip -dc "$file" ;;
    *) cat "$file" ;;
  esac >"$work/initrd/modules/$number-$module.ko"
done

find "$work/initrd" -exec touch -h -d @0 {} +
(cd "$work/initrd" && find . -print0 | LC_ALL=C sort -z |
  cpio --null --create --format=newc --reproducible --owner=0:0 --quiet) | gzip -9n >"$work/initrd.gz"

rm -f "$out/stamp"
install -m 644 "$(unpacked 'boot/vmlinuz-*')" "$out/vmlinuz"
install -m 644 "$work/initrd.gz" "$out/initrd.gz"
echo "$stamp" >"$out/stamp"
