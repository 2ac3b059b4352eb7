"""What is wrong with a disk or a database, as the error that says what to do about it."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from services.errors import (
    BeemeshError,
    DataLoss,
    FailedPrecondition,
    QuotaViolation,
    ResourceExhausted,
    Unavailable,
)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_ROOM_MIN = 64 << 10
"""Bytes: with less a database cannot even keep its index in memory that processes share."""
_RETRY_SECONDS = 5.0


def disk_full(path: Path, *, retry_after: float = _RETRY_SECONDS) -> ResourceExhausted:
    """There is no room for `path`."""
    return ResourceExhausted(
        f"no room for {path}: its disk is full; free some space there, no restart is needed",
        reason="DISK_FULL",
        metadata={"path": str(path)},
        quota=[QuotaViolation(subject="node:disk", description=f"the disk of {path.parent} is full")],
        retry_after=retry_after,
    )


def read_only(path: Path, why: str) -> FailedPrecondition:
    """`path` cannot be written."""
    return FailedPrecondition(
        f"{path} cannot be written: {why}; mount its disk for writing, and let the node's user write there",
        reason="DATA_DIR_READ_ONLY",
        metadata={"path": str(path)},
    )


def of_file(error: OSError, path: Path) -> BeemeshError | None:
    """What a failed write of a file means, where the disk is at fault; None: something else."""
    if error.errno in _NO_ROOM:
        return disk_full(path)
    if error.errno in _NOT_WRITABLE:
        return read_only(path, error.strerror or str(error))
    return None


def at_start(error: OSError, directory: Path) -> BeemeshError:
    """Why a data directory cannot be used."""
    return of_file(error, directory) or FailedPrecondition(
        f"{directory} cannot be used: {error.strerror or error}; mend it, or choose another directory",
        reason="DATA_DIR_UNUSABLE",
        metadata={"directory": str(directory)},
    )


def of_database(error: sqlite3.Error, path: Path, *, without: str) -> BeemeshError:
    """What SQLite's error means; `without` says what becomes of a service that starts without this database."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return disk_full(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, str(error), without=without)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return read_only(path, str(error))
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN:  # these do not say what the disk said
            return _by_disk(error, path)
    return Unavailable(f"{path}: {error}", reason="STORE_ERROR", metadata={"path": str(path)}, retry_after=1.0)


def damaged(path: Path, why: str, *, without: str) -> DataLoss:
    """`path` is there and is no database that can be used: nothing is done to it."""
    return DataLoss(
        f"{path} is damaged: {why}; it was left as it is. Restore a backup (beemesh-node restore), or move the file "
        f"away: {without}",
        reason="DATABASE_CORRUPT",
        metadata={"path": str(path)},
    )


def taken_away(path: Path, inode: int, *, without: str) -> DataLoss | None:
    """Whether `path` is no longer the file with `inode` that was opened: nobody would find what is written."""
    try:
        if path.stat().st_ino == inode:
            return None
    except OSError:  # it is not there
        pass
    return DataLoss(
        f"{path} was removed or replaced while it was in use, and nothing is written any more: put it back and restart "
        f"the service, or restart it without: {without}",
        reason="DATABASE_GONE",
        metadata={"path": str(path)},
    )


def _by_disk(error: sqlite3.Error, path: Path) -> BeemeshError:
    try:
        disk = os.statvfs(path.parent)
    except OSError as gone:
        return at_start(gone, path.parent)
    if disk.f_flag & os.ST_RDONLY or not os.access(path.parent, os.W_OK):
        return read_only(path, str(error))
    if disk.f_bavail * disk.f_frsize < _ROOM_MIN:
        return disk_full(path)
    return Unavailable(f"{path}: {error}", reason="STORE_ERROR", metadata={"path": str(path)}, retry_after=1.0)
