#!/usr/bin/env python3
"""Imports a 2 MB busybox image into podman in a tenth of a second, without a registry: for tests and the demo.

`make_test_image.py [REFERENCE] [--podman PATH] [-- PODMAN_OPTION…]`; the default is localhost/beemesh-busybox:1.
Needs a static busybox (Debian: busybox-static).
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

REFERENCE = "localhost/beemesh-busybox:1"
_APPLETS = ("sh", "sleep", "echo", "cat", "ls", "env", "true", "false", "id", "hostname", "httpd", "wget", "nc", "date")
_CHANGES = ("ENV PATH=/bin", 'CMD ["sh"]')
"""Podman adds no PATH of its own when it plays a pod."""
_TIMEOUT = 60


def busybox_tar(busybox: Path) -> bytes:
    """A root file system: /bin/busybox, its names, and an empty /tmp."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("tmp", 0o1777), ("etc", 0o755)):
            tar.addfile(_entry(folder, tarfile.DIRTYPE, mode))
        program = busybox.read_bytes()
        entry = _entry("bin/busybox", tarfile.REGTYPE, 0o755)
        entry.size = len(program)
        tar.addfile(entry, io.BytesIO(program))
        for applet in _APPLETS:
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def import_image(
    reference: str = REFERENCE,
    *,
    podman: Sequence[str] = ("podman",),
    busybox: str = "busybox",
    changes: Sequence[str] = (),
) -> None:
    """Import the image as `reference` unless it is there; `podman` is the command with its global options.

    Raises RuntimeError. Importing it again would leave the former one behind without a name.
    """
    there = subprocess.run([*podman, "image", "exists", reference], capture_output=True, timeout=_TIMEOUT, check=False)
    if there.returncode == 0:
        return
    program = shutil.which(busybox)
    if program is None:
        raise RuntimeError(f"{busybox} is not installed; on Debian: apt-get install busybox-static")
    options = [option for change in (*_CHANGES, *changes) for option in ("--change", change)]
    done = subprocess.run(
        [*podman, "import", "--quiet", *options, "-", reference],
        input=busybox_tar(Path(program)),
        capture_output=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"podman import {reference}: {done.stderr.decode(errors='replace').strip()}")


def main() -> None:
    """Import it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", nargs="?", default=REFERENCE)
    parser.add_argument("--podman", default="podman", help="the podman program")
    parser.add_argument("options", nargs="*", help="podman's global options, after --")
    arguments = parser.parse_args()
    try:
        import_image(arguments.reference, podman=[arguments.podman, *arguments.options])
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"make_test_image: {error}")
    print(arguments.reference)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


if __name__ == "__main__":
    main()
