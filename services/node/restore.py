"""Brings a backup back: all of it is checked before anything is touched, and what it replaces is set aside."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from services.data_dir import LOCK, NODE_LOCK, claimed, database, faults
from services.data_dir.files import make_private, sync_directory, sync_file
from services.data_dir.schemas import VERSIONS
from services.errors import DataLoss, FailedPrecondition
from services.node import archive
from services.node.archive import Header

_MARK = "restore-under-way"
"""While this file is there, the directory is partly the old node's and partly the restored one's."""
_STAGE = ".restore"
_IGNORED = (NODE_LOCK, _STAGE, "lost+found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was done."""

    header: Header
    kept: tuple[str, ...]
    """Engines' records that were there and stay: they say what runs."""
    set_aside: Path | None
    """Where what was there before is now; None: nothing was."""


def check_whole(data_dir: Path) -> None:
    """Raise FailedPrecondition(RESTORE_INTERRUPTED) where a restore has begun and has not ended."""
    if (data_dir / _MARK).exists():
        raise FailedPrecondition(
            f"a restore into {data_dir} was interrupted: run it again, with --force",
            reason="RESTORE_INTERRUPTED",
            metadata={"directory": str(data_dir)},
        )


def restore(source: Path, data_dir: Path, *, force: bool, stamp: str) -> Restored:
    """Put the backup `source` into `data_dir`, which is made where it is not there.

    With `force` also into one that is not empty: what is replaced goes to `replaced-<stamp>` in it. Raises
    FailedPrecondition (DATA_DIR_IN_USE, DATA_DIR_NOT_EMPTY, BACKUP_NOT_READABLE, BACKUP_TOO_NEW, SCHEMA_TOO_NEW),
    DataLoss(BACKUP_DAMAGED), ResourceExhausted(DISK_FULL).
    """
    with ExitStack() as held:
        held.enter_context(claimed(data_dir, lock_name=NODE_LOCK))
        for lock in sorted(data_dir.glob(f"*/{LOCK}")):  # services that run without a node, as in containers
            held.enter_context(claimed(lock.parent))
        if not force and (there := _there(data_dir)):
            raise FailedPrecondition(
                f"{data_dir} is not empty ({there}); restore into another directory, or with --force, which sets aside "
                "what it replaces",
                reason="DATA_DIR_NOT_EMPTY",
                metadata={"directory": str(data_dir)},
            )
        try:
            return _restored(source, data_dir, stamp)
        except OSError as error:
            raise faults.at_start(error, data_dir) from error


def _there(data_dir: Path) -> str:
    return next((path.name for path in sorted(data_dir.iterdir()) if path.name not in _IGNORED), "")


def _restored(source: Path, data_dir: Path, stamp: str) -> Restored:
    stage = data_dir / _STAGE
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(mode=0o700)
    try:
        header = archive.unpack(source, stage)
        _check_databases(source, stage, header)
        for entry in header.files:
            sync_file(stage / entry.path)
        (data_dir / _MARK).touch(mode=0o600)
        sync_directory(data_dir)
        kept = set(_records_that_stay(data_dir, header.node_id))
        aside = _unused(data_dir / f"replaced-{stamp}")
        for path in _replaced(data_dir, kept):
            _move(data_dir / path, aside / path)
        for entry in header.files:
            if entry.path not in kept:
                _move(stage / entry.path, data_dir / entry.path)
        (data_dir / _MARK).unlink()
        sync_directory(data_dir)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Restored(header=header, kept=tuple(sorted(kept)), set_aside=aside if aside.exists() else None)


def _check_databases(source: Path, stage: Path, header: Header) -> None:
    for path, version in header.schemas.items():
        try:
            with closing(database.connect(stage / path)) as connection:
                why = database.faults_in(connection)
                found = database.version_of(connection)
        except sqlite3.Error as error:
            why, found = str(error), version
        if not why and found != version:
            why = f"its schema version is {found}, the list says {version}"
        if why:
            raise DataLoss(
                f"{path} in {source} is damaged: {why}; nothing was changed",
                reason="BACKUP_DAMAGED",
                metadata={"path": path},
            )


def _records_that_stay(data_dir: Path, node_id: str) -> Iterator[str]:
    """What an engine has noted of this very node's workloads is truer than any backup: it is of what runs now."""
    for path in archive.kept_files(data_dir):
        if archive.is_record(path):
            try:
                record = json.loads((data_dir / path).read_bytes())
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("node_id") == node_id:
                yield path


def _replaced(data_dir: Path, kept: set[str]) -> Iterator[str]:
    for path in archive.kept_files(data_dir):
        if path not in kept:
            yield path
    for path in VERSIONS:
        yield from (str(side.relative_to(data_dir)) for side in database.beside(data_dir / path) if side.exists())


def _unused(path: Path) -> Path:
    """The name itself, or with a number, so that nothing that was set aside before is replaced."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(name for name in chain([path], numbered) if not name.exists())


def _move(source: Path, target: Path) -> None:
    make_private(target.parent)
    source.rename(target)
    sync_directory(target.parent)
