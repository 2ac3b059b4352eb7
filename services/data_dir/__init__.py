"""One process per data directory, and directories that only their user can enter."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.data_dir import faults
from services.errors import FailedPrecondition

LOCK = "lock"
"""The file whose lock a service holds on its own directory."""
NODE_LOCK = "node.lock"
"""The same of a node, on the directory that all its services' lie in."""


@contextmanager
def claimed(directory: Path, *, lock_name: str = LOCK) -> Iterator[None]:
    """Within it, no other process can claim `directory`, which is made (0700) if it is not there.

    Raises FailedPrecondition: DATA_DIR_IN_USE, naming the holder's pid, DATA_DIR_OPEN when others could enter or
    swap it, DATA_DIR_READ_ONLY, DATA_DIR_UNUSABLE; ResourceExhausted(DISK_FULL).
    """
    lock = _opened(directory, lock_name)
    try:
        _lock(lock, directory)
        with suppress(OSError):  # a full disk: who holds it is a courtesy
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _opened(directory: Path, lock_name: str) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_closed(directory)
        return os.open(directory / lock_name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise faults.at_start(error, directory) from error


def _lock(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        raise FailedPrecondition(
            f"{directory} is in use by another process (pid {holder}); stop it, or choose another directory",
            reason="DATA_DIR_IN_USE",
            metadata={"directory": str(directory), "pid": holder},
        ) from error


def _check_closed(directory: Path) -> None:
    mine, parent = directory.stat(), directory.absolute().parent.stat()
    if mine.st_uid != os.geteuid() or parent.st_uid not in (0, os.geteuid()):
        raise FailedPrecondition(
            f"{directory} belongs to another user, or lies in a directory that does; choose another one",
            reason="DATA_DIR_OPEN",
            metadata={"directory": str(directory)},
        )
    if mine.st_mode & 0o077:
        raise FailedPrecondition(
            f"other users can enter {directory} (mode {mine.st_mode & 0o777:04o}); chmod 700 it, or choose another one",
            reason="DATA_DIR_OPEN",
            metadata={"directory": str(directory)},
        )
