"""Makes a tiny container image from this machine's static busybox: no registry, no build, a tenth of a second.

`python -m scripts.make_test_image [REFERENCE]` imports it into podman and prints its reference.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

REFERENCE = "localhost/beemesh/busybox:1"
TIMEOUT_SECONDS = 60


class NotHere(Exception):
    """This machine lacks what is needed; the text says what, and how to get it."""


def static_busybox() -> Path:
    """The busybox that runs without libraries; raises NotHere."""
    path = shutil.which("busybox", path="/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin")
    if path is None or subprocess.run(["ldd", path], capture_output=True, timeout=10, check=False).returncode == 0:
        raise NotHere("a static busybox is needed for the test image: apt-get install busybox-static")
    return Path(path)


def image_tar(busybox: Path) -> bytes:
    """A root file system: bin/busybox, a link for each of its applets, and an empty /tmp."""
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, timeout=10, check=True).stdout
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            tar.addfile(_entry(directory, type=tarfile.DIRTYPE, mode=mode))
        content = busybox.read_bytes()
        tar.addfile(_entry("bin/busybox", size=len(content), mode=0o755), io.BytesIO(content))
        for applet in sorted({name for name in listed.split() if name != "busybox"}):
            tar.addfile(_entry(f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox"))
    return buffer.getvalue()


def _entry(name: str, **facts: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(entry, key, value)
    return entry


def make(reference: str = REFERENCE) -> str:
    """Import the image into podman; its id. Raises NotHere."""
    if shutil.which("podman") is None:
        raise NotHere("podman is not here: apt-get install podman")
    changes = ["--change", "ENV PATH=/bin", "--change", 'CMD ["/bin/sh"]']
    made = subprocess.run(
        ["podman", "import", "--quiet", *changes, "-", reference],
        input=image_tar(static_busybox()),
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if made.returncode != 0:
        raise NotHere(f"podman cannot import an image: {made.stderr.decode(errors='replace').strip()}")
    return made.stdout.decode().strip()


def main() -> None:
    """The program."""
    reference = sys.argv[1] if len(sys.argv) > 1 else REFERENCE
    try:
        make(reference)
    except NotHere as error:
        sys.exit(f"make_test_image: {error}")
    print(reference)


if __name__ == "__main__":
    main()
