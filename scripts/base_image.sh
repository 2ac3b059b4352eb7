#!/usr/bin/env bash
# Makes a base image for deploy/Dockerfile where images come from no registry: Debian bookworm with Python 3.11, made by
# debootstrap (about a minute, as root). Usage: scripts/base_image.sh [TAG]
set -euo pipefail
tag=${1:-beemesh-base:bookworm}
authorities=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

root=$(mktemp -d)
clean_up() {
  for mounted in "$root/proc" "$root/sys"; do # an interrupted debootstrap leaves them
    ! mountpoint -q "$mounted" || umount "$mounted"
  done
  rm -rf --one-file-system "$root"
}
trap clean_up EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
# What this machine trusts, its image build trusts too (a proxy with a certificate of its own).
if [ -f "$authorities" ]; then cp "$authorities" "$root/etc/ssl/certs/ca-certificates.crt"; fi
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/cache/debconf/*-old
tar --numeric-owner -C "$root" -c . | "${DOCKER:-docker}" import --change 'CMD ["bash"]' - "$tag"
