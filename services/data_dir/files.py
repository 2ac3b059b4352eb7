"""Files that are replaced as a whole: after a crash the old content is there, or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` (0600) as a whole; it is on disk on return, or, not `durable`, outlives this process. OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def make_private(directory: Path) -> None:
    """Make `directory` and what is missing above it, each closed to others (0700); raises OSError."""
    for missing in reversed([place for place in (directory, *directory.parents) if not place.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def sync_file(path: Path) -> None:
    """Have the content of a file on disk; raises OSError."""
    _sync(path, os.O_RDONLY)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on disk; raises OSError."""
    _sync(directory, os.O_DIRECTORY)


def _sync(path: Path, flag: int) -> None:
    descriptor = os.open(path, flag | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
