"""What a backup of a node is made of: which files, in which form, and what is checked before one is believed.

A gzipped tar: first `backup.json`, which names every file with its size and digest, then the files.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from services.data_dir.files import make_private
from services.data_dir.schemas import VERSIONS
from services.errors import DataLoss, FailedPrecondition

FORMAT = 1
"""Of the archive; a release reads its own and older ones."""
HEADER = "backup.json"
_HEADER_MAX = 64 << 20
_CHUNK = 1 << 20

_RECORD = re.compile(r"engine-[a-z0-9-]+/workloads/[a-z0-9][a-z0-9.-]*\.json")
_KEPT: Mapping[str, re.Pattern[str]] = {
    "provider/*": re.compile(r"provider/(node\.key|provider\.db)"),
    "registry/*": re.compile(r"registry/choices\.json"),
    "orchestrator/*": re.compile(r"orchestrator/(node_id|orchestrator\.db)"),
    "engine-*/node_id": re.compile(r"engine-[a-z0-9-]+/node_id"),
    "engine-*/workloads/*.json": _RECORD,
}
"""All that a backup holds: what a node knows. What workloads own (volumes, images, disks) is their backends'.

Where to look, and what of it to take, in the order of reading. Engines come last: a record of theirs that the
orchestrator does not know is an orphan, the other way round it is lost.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file."""

    path: str
    """Below the data directory."""
    size: int
    sha256: str
    """Hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamp:
    """What the header of every format says."""

    format: int
    release: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a backup says of itself."""

    format: int
    release: str
    """That made it."""
    node_id: str
    time: str
    """When, UTC, as in RFC 3339."""
    schemas: Mapping[str, int]
    """The schema's version of each database, by path."""
    files: tuple[Entry, ...]


def kept_files(data_dir: Path) -> list[str]:
    """The paths below `data_dir` that a backup holds, in the order in which they are to be read."""
    return [
        path
        for places, pattern in _KEPT.items()
        for path in sorted(str(found.relative_to(data_dir)) for found in data_dir.glob(places) if found.is_file())
        if pattern.fullmatch(path)
    ]


def is_record(path: str) -> bool:
    """Whether it is an engine's record of one workload."""
    return _RECORD.fullmatch(path) is not None


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's content, hex digits; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, directory: Path) -> Header:
    """Write the files of a backup below `directory`, each checked; nothing else is ever written, or to another place.

    Raises DataLoss(BACKUP_DAMAGED), FailedPrecondition (BACKUP_NOT_READABLE, BACKUP_TOO_NEW, SCHEMA_TOO_NEW), OSError.
    """
    with _reading(archive) as file, gzip.open(file) as whole, tarfile.open(fileobj=whole, mode="r:") as tar:
        header = _header(archive, tar)
        _check_schemas(archive, header)
        missing = {entry.path: entry for entry in header.files}
        while (member := tar.next()) is not None:
            entry = missing.pop(member.name, None)
            if entry is None:
                raise ValueError(f"{member.name[:200]!r} is not in its list, or twice in it")
            _write(tar, member, entry, directory)
        while whole.read(_CHUNK):  # to its end: there is the check of it all
            pass
    if missing:
        raise _damaged(archive, f"{next(iter(missing))} is missing")
    return header


def _header(archive: Path, tar: tarfile.TarFile) -> Header:
    member = tar.next()
    content = tar.extractfile(member) if member is not None and member.isreg() else None
    if member is None or content is None or member.name != HEADER or member.size > _HEADER_MAX:
        raise ValueError(f"it does not begin with {HEADER}")
    text = content.read()
    _check_format(archive, msgspec.json.decode(text, type=_Stamp))
    header = msgspec.json.decode(text, type=Header)
    for entry in header.files:
        if not any(pattern.fullmatch(entry.path) for pattern in _KEPT.values()):
            raise ValueError(f"{entry.path[:200]!r} is no file of a node")
    return header


def _check_format(archive: Path, header: _Stamp) -> None:
    if header.format > FORMAT:
        raise FailedPrecondition(
            f"{archive} has format {header.format}, made by release {header.release}; this one reads up to {FORMAT}: "
            "restore it with the newer release",
            reason="BACKUP_TOO_NEW",
            metadata={"found": str(header.format), "known": str(FORMAT)},
        )


def _check_schemas(archive: Path, header: Header) -> None:
    for path, version in header.schemas.items():
        if version > VERSIONS.get(path, 0):
            raise FailedPrecondition(
                f"{path} in {archive} has schema version {version}, made by release {header.release}; this release "
                f"knows up to {VERSIONS.get(path, 0)}: restore it with the newer release",
                reason="SCHEMA_TOO_NEW",
                metadata={"path": path, "found": str(version), "known": str(VERSIONS.get(path, 0))},
            )


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, entry: Entry, directory: Path) -> None:
    source = tar.extractfile(member) if member.isreg() else None
    if source is None or member.size != entry.size:
        raise ValueError(f"{entry.path} is not what its list says")
    target = directory / entry.path
    make_private(target.parent)
    target.touch(mode=0o600)
    hashed = hashlib.sha256()
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            hashed.update(chunk)
            file.write(chunk)
    if hashed.hexdigest() != entry.sha256:
        raise ValueError(f"{entry.path} does not have the digest that its list says")


@contextmanager
def _reading(archive: Path) -> Iterator[BinaryIO]:
    try:
        file = archive.open("rb")
    except OSError as error:
        raise FailedPrecondition(
            f"{archive} cannot be read: {error.strerror}", reason="BACKUP_NOT_READABLE", metadata={"path": str(archive)}
        ) from error
    with file:
        try:
            yield file
        except (
            tarfile.TarError,
            zlib.error,
            gzip.BadGzipFile,
            EOFError,
            ValueError,
        ) as error:  # msgspec's: ValueErrors
            raise _damaged(archive, str(error)) from error


def _damaged(archive: Path, why: str) -> DataLoss:
    return DataLoss(
        f"{archive} is no backup that can be restored: {why}; nothing was changed",
        reason="BACKUP_DAMAGED",
        metadata={"path": str(archive)},
    )
