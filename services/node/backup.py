"""Saves what a node knows in one file, while it runs or not."""

from __future__ import annotations

import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec

from services.data_dir import database, faults
from services.data_dir.files import sync_directory
from services.data_dir.schemas import VERSIONS
from services.errors import BeemeshError, FailedPrecondition
from services.node import archive
from services.node.archive import Entry, Header
from services.node.restore import check_whole

_KEY = "provider/node.key"
_CLAIM = "node-id: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a backup has in it."""

    node_id: str
    files: int
    size: int
    """Bytes of the archive."""


def backup(data_dir: Path, target: Path, *, release: str, time: str) -> Saved:
    """Write the backup of the node at `data_dir` to `target` (0600), whole or not at all.

    Each database is copied as it is at one moment; a node that runs is not disturbed. Raises FailedPrecondition
    (NOTHING_TO_BACK_UP, FILE_EXISTS, RESTORE_INTERRUPTED, DATA_DIR_READ_ONLY), DataLoss(DATABASE_CORRUPT),
    ResourceExhausted(DISK_FULL).
    """
    check_whole(data_dir)
    if not (data_dir / _KEY).exists():
        raise FailedPrecondition(
            f"{data_dir} has no {_KEY}: no node has run there", reason="NOTHING_TO_BACK_UP", metadata={"path": _KEY}
        )
    if target.exists():
        raise FailedPrecondition(f"{target} is there; choose another name", reason="FILE_EXISTS")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".beemesh-backup-") as staged:  # 0700
            return _saved(data_dir, Path(staged), target, release=release, time=time)
    except OSError as error:
        raise faults.at_start(error, target.parent) from error


def _saved(data_dir: Path, staged: Path, target: Path, *, release: str, time: str) -> Saved:
    schemas: dict[str, int] = {}
    for path in archive.kept_files(data_dir):
        copy = staged / path
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path in VERSIONS:
            schemas[path] = _copy_database(data_dir / path, copy)
        else:
            _copy_file(data_dir / path, copy)
    files = archive.kept_files(staged)
    header = Header(
        format=archive.FORMAT,
        release=release,
        node_id=node_id_of(data_dir),
        time=time,
        schemas=schemas,
        files=tuple(_entry(staged, path) for path in files),
    )
    whole = staged / "whole.tar.gz"
    _pack(header, staged, whole)
    whole.rename(target)
    sync_directory(target.parent)
    return Saved(node_id=header.node_id, files=len(files), size=target.stat().st_size)


def node_id_of(data_dir: Path) -> str:
    """The id of the node whose key lies there, as the key's file says it; "" where there is none."""
    try:
        with (data_dir / _KEY).open() as file:
            claim = file.readline(100).strip()
    except (OSError, ValueError):
        return ""
    return claim.removeprefix(_CLAIM) if claim.startswith(_CLAIM) else ""


def _copy_file(source: Path, copy: Path) -> None:
    """As it is replaced whole, one reading is one version; what is removed meanwhile is not there."""
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        return
    copy.touch(mode=0o600)
    copy.write_bytes(content)


def _copy_database(source: Path, copy: Path) -> int:
    """The version of the schema; raises DataLoss for a database whose backup would be worth nothing."""
    try:
        with closing(database.connect(source)) as reader, closing(sqlite3.connect(copy)) as writer:
            reader.backup(writer)
            if why := database.faults_in(writer):
                raise faults.damaged(source, why, without="a backup of it would be worth nothing")
            return database.version_of(writer)
    except sqlite3.Error as error:
        raise _unreadable(error, source) from error


def _unreadable(error: sqlite3.Error, path: Path) -> BeemeshError:
    return faults.of_database(error, path, without="a backup of it would be worth nothing")


def _entry(staged: Path, path: str) -> Entry:
    return Entry(path=path, size=(staged / path).stat().st_size, sha256=archive.digest_of(staged / path))


def _pack(header: Header, staged: Path, whole: Path) -> None:
    text = msgspec.json.format(msgspec.json.encode(header)) + b"\n"
    whole.touch(mode=0o600)
    with whole.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
            first = tarfile.TarInfo(archive.HEADER)
            first.size, first.mode = len(text), 0o600
            tar.addfile(first, BytesIO(text))
            for entry in header.files:
                member = tarfile.TarInfo(entry.path)
                member.size, member.mode = entry.size, 0o600
                with (staged / entry.path).open("rb") as content:
                    tar.addfile(member, content)
        file.flush()
        os.fsync(file.fileno())
