"""How a service opens its SQLite file: made whole or not at all, brought forward, never used damaged or newer.

A file that is there and bad is never replaced by an empty one: what it held would be forgotten without a word.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.data_dir import faults
from services.data_dir.files import sync_directory, sync_file
from services.errors import FailedPrecondition
from services.telemetry import Log

_BUSY_SECONDS = 5.0
_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database: it belongs to that very file, and would be played into any other one."""

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a release knows of one kind of database."""

    migrations: Sequence[str]
    """The SQL that leads from version n to n + 1, for n from 0; a migration that was released is never changed."""
    without: str
    """What becomes of a service that starts without its database, as a clause."""

    @property
    def version(self) -> int:
        """The version that the last migration leads to."""
        return len(self.migrations)


def open_database(path: Path, schema: Schema) -> sqlite3.Connection:
    """Open (WAL, synchronous=FULL, autocommit), make where there is none, and bring forward.

    Raises DataLoss(DATABASE_CORRUPT), FailedPrecondition (SCHEMA_TOO_NEW, DATA_DIR_READ_ONLY),
    ResourceExhausted(DISK_FULL), Unavailable(STORE_ERROR).
    """
    try:
        if not path.exists():
            _make(path, schema)
        elif not path.stat().st_size:
            raise faults.damaged(path, "it is empty", without=schema.without)
        return _opened(path, schema)
    except sqlite3.Error as error:
        raise faults.of_database(error, path, without=schema.without) from error
    except OSError as error:
        raise faults.at_start(error, path) from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there: none is ever made. Raises sqlite3.Error."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version that a database says it has; raises sqlite3.Error."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def faults_in(connection: sqlite3.Connection) -> str:
    """What SQLite finds wrong with the structure of a database, in one line; "" for nothing. Raises sqlite3.Error."""
    found = " ".join(str(row[0]) for row in connection.execute("PRAGMA quick_check(1)"))
    return "" if found == "ok" else " ".join(found.replace("*** in database main ***", "").split())


def beside(path: Path) -> list[Path]:
    """The names that SQLite uses beside this database."""
    return [path.with_name(path.name + suffix) for suffix in _BESIDE]


def _make(path: Path, schema: Schema) -> None:
    """Under another name first: a crash leaves a database, or none, never an empty file."""
    fresh = path.with_name(f".{path.name}.new")
    for leftover in (fresh, *beside(fresh), *beside(path)):
        leftover.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        _migrate(connection, 0, schema)
        connection.execute("PRAGMA journal_mode = WAL")
    sync_file(fresh)
    fresh.rename(path)
    sync_directory(path.parent)
    log.info("database_made", path=path, schema=schema.version)


def _opened(path: Path, schema: Schema) -> sqlite3.Connection:
    connection = connect(path)
    try:
        version = version_of(connection)
        if version > schema.version:
            raise _too_new(path, version, schema)
        if not version:
            raise faults.damaged(path, "it was not made by a Beemesh service", without=schema.without)
        if why := faults_in(connection):
            raise faults.damaged(path, why, without=schema.without)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _migrate(connection, version, schema)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, version: int, schema: Schema) -> None:
    """Each step is a transaction with its version: a crash leaves the one before or the one after."""
    for number in range(version, schema.version):
        connection.executescript(f"BEGIN; {schema.migrations[number]} PRAGMA user_version = {number + 1}; COMMIT;")
        if version:
            log.info("database_migrated", schema=number + 1)


def _too_new(path: Path, version: int, schema: Schema) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} has schema version {version}, this release knows up to {schema.version}: start the newer release, or "
        "restore a backup that this one has made",
        reason="SCHEMA_TOO_NEW",
        metadata={"path": str(path), "found": str(version), "known": str(schema.version)},
    )
