"""A small disk of its own for one directory: filled, emptied, made read-only. Needs root, since it mounts a tmpfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_TIMEOUT = 30
_BALLAST = "ballast"


class SmallDisk:
    """The disk under `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self) -> None:
        """Leave no room at all."""
        block = b"\0" * 4096
        with (self.directory / _BALLAST).open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(block)
        assert os.statvfs(self.directory).f_bavail == 0

    def free(self) -> None:
        """Make room again."""
        (self.directory / _BALLAST).unlink()

    def read_only(self, flag: bool) -> None:
        """Refuse writes, or take them again; nothing on it may be open for writing."""
        _run("mount", "-o", f"remount,{'ro' if flag else 'rw'}", str(self.directory))


@contextmanager
def small_disk(directory: Path, *, size: str = "1m") -> Iterator[SmallDisk]:
    """Mount a disk of `size` at `directory`, which is made (0700); skips where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk of its own")
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700)
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory))
    try:
        yield SmallDisk(directory)
    finally:
        _run("umount", "--lazy", str(directory))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
