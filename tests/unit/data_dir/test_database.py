"""A database is made whole, brought forward, and never used or replaced when it is damaged or newer."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from services.data_dir.database import Schema, open_database
from services.errors import DataLoss, FailedPrecondition

MIGRATIONS = (
    "CREATE TABLE things (name TEXT PRIMARY KEY) STRICT;",
    "ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 7;",
    "CREATE TABLE more (name TEXT) STRICT; INSERT INTO more SELECT name FROM things;",
)
NOW = Schema(migrations=MIGRATIONS, without="it begins anew")


def made(path: Path, schema: Schema = NOW, *names: str) -> None:
    """A database of this schema, closed; each name is a thing in it."""
    with closing(open_database(path, schema)) as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO things (name) VALUES (?)", [(name,) for name in names])
        connection.execute("COMMIT")


def things(path: Path) -> list[tuple[object, ...]]:
    with closing(open_database(path, NOW)) as connection:
        return connection.execute("SELECT * FROM things ORDER BY name").fetchall()


def test_a_database_of_an_older_release_is_brought_forward(tmp_path: Path) -> None:
    """What an older release has written is there after each later migration, and the file has the new version."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as old:  # as release one would have left it
        old.executescript(f"{MIGRATIONS[0]} INSERT INTO things VALUES ('web'); PRAGMA user_version = 1;")
    assert things(path) == [("web", 7)]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        assert connection.execute("SELECT * FROM more").fetchall() == [("web",)]


def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    """Each migration is done with its version or not at all, and the next start goes on from there."""
    path = tmp_path / "x.db"
    made(path, Schema(migrations=MIGRATIONS[:1], without=""), "web")
    broken = Schema(
        migrations=(*MIGRATIONS[:2], "CREATE TABLE more (name TEXT) STRICT; INSERT INTO nowhere VALUES (1);"),
        without="",
    )
    with pytest.raises(Exception, match="nowhere"):
        open_database(path, broken)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
    assert things(path) == [("web", 7)]


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A file of a later release is refused with its path and both versions, byte for byte as it was."""
    path = tmp_path / "x.db"
    made(path, Schema(migrations=(*MIGRATIONS, "CREATE TABLE later (a TEXT);"), without=""), "web")
    before = path.read_bytes()
    with pytest.raises(FailedPrecondition, match=r"schema version 4.*up to 3") as caught:
        open_database(path, NOW)
    assert caught.value.reason == "SCHEMA_TOO_NEW"
    assert path.read_bytes() == before


def _no_database(_: bytes) -> bytes:
    return b"this is no database, and long enough to be read as the header of one" * 100


def _garbage_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + b"\xa5" * 4096 + content[middle + 4096 :]


def _truncated(content: bytes) -> bytes:
    return content[: len(content) - 5000]


def _empty(_: bytes) -> bytes:
    return b""


def _not_ours(_: bytes) -> bytes:
    return b"SQLite format 3\0".ljust(100, b"\0")


@pytest.mark.parametrize("spoil", [_no_database, _garbage_in_the_middle, _truncated, _empty, _not_ours])
def test_a_file_that_is_there_and_bad_is_named_and_never_replaced(tmp_path: Path, spoil: object) -> None:
    """Damage ends the opening with the path and what to do, and the file is left byte for byte as it was."""
    path = tmp_path / "x.db"
    made(path, NOW, *(f"thing-{number:04d}" * 20 for number in range(500)))
    assert callable(spoil)
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(DataLoss) as caught:
        open_database(path, NOW)
    assert caught.value.reason == "DATABASE_CORRUPT"
    assert str(path) in caught.value.message
    assert "restore" in caught.value.message
    assert "move the file away: it begins anew" in caught.value.message
    assert path.read_bytes() == before


def test_a_valid_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A file without our version is not taken for an empty one of ours."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (a TEXT)")
    with pytest.raises(DataLoss, match="not made by a Beemesh service"):
        open_database(path, NOW)


def test_what_a_removed_database_left_beside_it_does_not_come_back(tmp_path: Path) -> None:
    """The log of changes of a file that was deleted is not played into the one that takes its place."""
    path = tmp_path / "x.db"
    writer = open_database(path, NOW)
    writer.execute("INSERT INTO things (name) VALUES ('old')")
    kept = (tmp_path / "x.db-wal").read_bytes()
    writer.close()
    path.unlink()
    (tmp_path / "x.db-wal").write_bytes(kept)
    assert things(path) == []


def test_a_crash_while_it_is_made_leaves_none(tmp_path: Path) -> None:
    """What an interrupted start left of a database is made anew, and only the finished one has its name."""
    (tmp_path / ".x.db.new").write_bytes(b"half")
    made(tmp_path / "x.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.db"]
    assert (tmp_path / "x.db").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    """No directory is made on the way."""
    with pytest.raises(FailedPrecondition) as caught:
        open_database(tmp_path / "nowhere" / "x.db", NOW)
    assert caught.value.reason == "DATA_DIR_UNUSABLE"
