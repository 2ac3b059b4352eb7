"""What a disk or a database refuses is told in the words of who can mend it."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from services.data_dir import faults
from services.errors import BeemeshError, Code


def refused(path: Path, *statements: str, mode: str = "rw") -> BeemeshError:
    """The error of the first statement that SQLite refuses."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True)) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(statements[-1])
        return faults.of_database(caught.value, path, without="it begins anew")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with one table."""
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE things (body BLOB)")
    return tmp_path / "x.db"


def test_a_full_disk_is_resource_exhausted(database: Path) -> None:
    """No room is RESOURCE_EXHAUSTED, with the path, what ran out, and when to try again."""
    error = refused(database, "PRAGMA max_page_count = 2", "INSERT INTO things VALUES (zeroblob(100000))")
    assert (error.code, error.reason, error.metadata) == (
        Code.RESOURCE_EXHAUSTED,
        "DISK_FULL",
        {"path": str(database)},
    )
    assert [item.subject for item in error.quota] == ["node:disk"]
    assert error.retry_after


def test_what_may_not_be_written_is_a_precondition(database: Path) -> None:
    """A database on a read-only disk is FAILED_PRECONDITION, with what to do."""
    error = refused(database, "INSERT INTO things VALUES (1)", mode="ro")
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "DATA_DIR_READ_ONLY")
    assert "mount its disk for writing" in error.message


def test_a_lock_that_is_held_is_unavailable(database: Path) -> None:
    """What passes by itself is UNAVAILABLE."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        error = refused(database, "PRAGMA busy_timeout = 0", "INSERT INTO things VALUES (1)")
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "STORE_ERROR")


def test_a_directory_that_vanished_is_a_precondition(tmp_path: Path) -> None:
    """Where the directory is gone, it is named."""
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(tmp_path / "gone" / "x.db")
    error = faults.of_database(caught.value, tmp_path / "gone" / "x.db", without="")
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "DATA_DIR_UNUSABLE")
    assert str(tmp_path / "gone") in error.message


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "DISK_FULL"),
        (errno.EDQUOT, "DISK_FULL"),
        (errno.EROFS, "DATA_DIR_READ_ONLY"),
        (errno.EACCES, "DATA_DIR_READ_ONLY"),
        (errno.ENOTDIR, "DATA_DIR_UNUSABLE"),
    ],
)
def test_a_directory_that_cannot_be_used_is_said_by_name(tmp_path: Path, number: int, reason: str) -> None:
    """Each error of the system at the start has a reason of its own, and names the directory."""
    error = faults.at_start(OSError(number, os.strerror(number)), tmp_path)
    assert error.reason == reason
    assert str(tmp_path) in error.message


def test_an_error_of_something_else_is_not_put_on_the_disk(tmp_path: Path) -> None:
    """What neither a full nor a read-only disk explains is left to who knows what was written."""
    assert faults.of_file(OSError(errno.ENOENT, "gone"), tmp_path) is None
