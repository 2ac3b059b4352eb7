#!/usr/bin/env bash
# Makes a base image for deploy/Dockerfile where images come from no registry: Debian bookworm with Python 3.11, by
# debootstrap (about a minute, as root) the first time, then from the copy kept in .build/base.
# Usage: scripts/base_image.sh [TAG]
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-beemesh-base:bookworm}
kept=.build/base/bookworm-$(dpkg --print-architecture).tar
authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

make_kept() {
  [ "$(id -u)" = 0 ] || { echo "base_image: debootstrap needs root" >&2; return 1; }
  command -v debootstrap >/dev/null || scripts/setup.sh base
  mkdir -p "$(dirname "$kept")"
  root=$(mktemp -d)
  # An interrupted debootstrap leaves /proc and /sys mounted.
  trap 'for each in "$root/proc" "$root/sys"; do ! mountpoint -q "$each" || umount "$each"; done
        rm -rf --one-file-system "$root"' EXIT
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
  # What this machine trusts, its image build trusts too (a proxy with a certificate of its own).
  if [ -f "$authorities" ]; then cp "$authorities" "$root/etc/ssl/certs/ca-certificates.crt"; fi
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/cache/debconf/*-old
  tar --numeric-owner -C "$root" -cf "$kept.new" .
  mv "$kept.new" "$kept"
}

[ -s "$kept" ] || make_kept
"${DOCKER:-docker}" import --change 'CMD ["bash"]' "$kept" "$tag"
