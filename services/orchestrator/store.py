"""What must survive: deployments, revisions, announcements and events in SQLite (WAL, synchronous=FULL).

One writer thread commits what has queued up in one transaction (group commit): a write is durable when its `await`
returns. Readers have the orchestrator's memory, which is filled from here once, at start.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from services.data_dir import database, faults
from services.data_dir.database import Schema
from services.errors import BeemeshError, DataLoss
from services.orchestrator.model import Deployment, Revision, State, Step, Wish

_GROUP_MAX = 256

SCHEMA = Schema(
    without="the node then begins without deployments, and lists what runs as orphans that can be adopted",
    migrations=(
        # 0 → 1
        """
        CREATE TABLE deployments (deployment_id TEXT PRIMARY KEY, gone INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
        CREATE TABLE revisions (deployment_id TEXT NOT NULL, revision INTEGER NOT NULL, outcome INTEGER NOT NULL,
                                engine TEXT NOT NULL, time REAL NOT NULL, wish BLOB NOT NULL,
                                PRIMARY KEY (deployment_id, revision)) STRICT, WITHOUT ROWID;
        CREATE TABLE announcements (deployment_id TEXT PRIMARY KEY, wanted INTEGER NOT NULL,
                                    done INTEGER NOT NULL) STRICT;
        CREATE TABLE requests (request_id TEXT PRIMARY KEY, deployment_id TEXT NOT NULL, digest TEXT NOT NULL,
                               time REAL NOT NULL) STRICT;
        CREATE TABLE events (sequence INTEGER PRIMARY KEY, deployment_id TEXT NOT NULL, body BLOB NOT NULL) STRICT;
        CREATE INDEX events_of ON events (deployment_id, sequence);
        """,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What the DHT should say of a deployment, and whether it does."""

    deployment_id: str
    wanted: bool
    """True: announce; False: withdraw."""
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request_id that was used, for which content."""

    request_id: str
    deployment_id: str
    digest: str
    time: float


Statement = tuple[str, Sequence[Any]]


def put_deployment(deployment: Deployment) -> Statement:
    """Insert or replace the record."""
    return (
        "INSERT OR REPLACE INTO deployments VALUES (?, ?, ?)",
        (deployment.deployment_id, int(deployment.step is Step.GONE), msgspec.json.encode(deployment)),
    )


def drop_deployment(deployment_id: str) -> list[Statement]:
    """Forget a deployment and its history."""
    tables = ("deployments", "revisions", "announcements", "events")
    return [(f"DELETE FROM {table} WHERE deployment_id = ?", (deployment_id,)) for table in tables]  # noqa: S608


def put_announcement(item: Announcement) -> Statement:
    """Insert or replace what is wanted of the DHT."""
    return ("INSERT OR REPLACE INTO announcements VALUES (?, ?, ?)", (item.deployment_id, item.wanted, item.done))


def drop_announcement(deployment_id: str) -> Statement:
    """A withdrawal that is done needs no row; a newer wish to announce is left alone."""
    return ("DELETE FROM announcements WHERE deployment_id = ? AND wanted = 0", (deployment_id,))


def put_revision(record: Deployment, *, keep: int = 10) -> list[Statement]:
    """Remember what was accepted; the oldest revisions beyond `keep` are forgotten."""
    values = (record.deployment_id, record.revision, int(record.state), record.engine_id, record.update_time)
    return [
        ("INSERT OR REPLACE INTO revisions VALUES (?, ?, ?, ?, ?, ?)", (*values, msgspec.json.encode(record.wish))),
        (
            "DELETE FROM revisions WHERE deployment_id = ? AND revision <= ?",
            (record.deployment_id, record.revision - keep),
        ),
    ]


def end_revision(record: Deployment) -> Statement:
    """Remember what became of it."""
    return (
        "UPDATE revisions SET outcome = ?, engine = ? WHERE deployment_id = ? AND revision = ?",
        (int(record.state), record.engine_id, record.deployment_id, record.revision),
    )


def put_event(sequence: int, deployment_id: str, body: bytes, *, keep: int) -> list[Statement]:
    """Write an event; the oldest of its deployment beyond `keep` are forgotten."""
    newest = "SELECT sequence FROM events WHERE deployment_id = ? ORDER BY sequence DESC LIMIT 1 OFFSET ?"
    return [
        ("INSERT INTO events VALUES (?, ?, ?)", (sequence, deployment_id, body)),
        (
            f"DELETE FROM events WHERE deployment_id = ? AND sequence <= ({newest})",  # noqa: S608 - a constant
            (deployment_id, deployment_id, keep),
        ),
    ]


def put_request(item: Request, *, keep: int) -> list[Statement]:
    """Remember a request_id; the oldest beyond `keep` are forgotten."""
    values = (item.request_id, item.deployment_id, item.digest, item.time)
    oldest = "SELECT rowid FROM requests ORDER BY rowid DESC LIMIT 1 OFFSET ?"  # as they came: a wall clock may jump
    return [
        ("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?)", values),
        (f"DELETE FROM requests WHERE rowid <= ({oldest})", (keep,)),  # noqa: S608 - both are constants
    ]


class Store:
    """The database; `async with Store(path)` opens and closes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: sqlite3.Connection | None = None
        self._inode = 0
        self._queue: queue.SimpleQueue[tuple[list[Statement], asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def __aenter__(self) -> Self:
        self._opened = await asyncio.to_thread(database.open_database, self._path, SCHEMA)
        self._inode = self._path.stat().st_ino
        self._thread = threading.Thread(
            target=self._write, args=(asyncio.get_running_loop(),), name="store", daemon=True
        )
        self._thread.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._connection.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise RuntimeError("the store is not open")
        return self._opened

    def deployments(self) -> list[Deployment]:
        """All records, the gone ones included, last changed last; raises DataLoss naming one that cannot be read."""
        rows = self._read("SELECT deployment_id, body FROM deployments ORDER BY rowid")
        found: list[Deployment] = []
        for name, body in rows:
            try:
                found.append(msgspec.json.decode(body, type=Deployment))
            except msgspec.MsgspecError as error:
                raise DataLoss(
                    f"{self._path}: the record of deployment {name!r} cannot be read: {error}",
                    reason="RECORD_UNREADABLE",
                    metadata={"deployment_id": str(name)},
                ) from error
        return found

    def announcements(self) -> list[Announcement]:
        """What is wanted of the DHT."""
        rows = self._read("SELECT deployment_id, wanted, done FROM announcements")
        return [Announcement(deployment_id=name, wanted=bool(wanted), done=bool(done)) for name, wanted, done in rows]

    def requests(self) -> list[Request]:
        """The request ids that are remembered."""
        rows = self._read("SELECT request_id, deployment_id, digest, time FROM requests ORDER BY rowid")
        return [Request(request_id=r, deployment_id=d, digest=g, time=t) for r, d, g, t in rows]

    def revisions(self, deployment_id: str) -> list[Revision]:
        """The kept revisions of one deployment, newest first."""
        query = (
            "SELECT revision, outcome, engine, time, wish FROM revisions WHERE deployment_id = ? ORDER BY revision DESC"
        )
        return [
            Revision(
                revision=revision,
                wish=msgspec.json.decode(wish, type=Wish),
                outcome=State(outcome),
                engine_id=engine,
                time=time,
            )
            for revision, outcome, engine, time, wish in self._read(query, (deployment_id,))
        ]

    def last_event(self) -> int:
        """The highest number that an event has had among those kept; 0 when there is none."""
        return int(self._read("SELECT COALESCE(MAX(sequence), 0) FROM events")[0][0])

    def events(self, deployment_id: str, *, after: int) -> list[bytes]:
        """The kept events of one deployment with a higher number, oldest first."""
        query = "SELECT body FROM events WHERE deployment_id = ? AND sequence > ? ORDER BY sequence"
        return [row[0] for row in self._read(query, (deployment_id, after))]

    async def commit(self, *statements: Statement) -> None:
        """Make these durable, all or none.

        Raises ResourceExhausted(DISK_FULL), FailedPrecondition(DATA_DIR_READ_ONLY), DataLoss (DATABASE_CORRUPT,
        DATABASE_GONE), Unavailable.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((list(statements), done))
        await asyncio.shield(done)

    def _read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """On a connection of its own: the writer's transactions are not seen before they are committed."""
        try:
            with contextlib.closing(database.connect(self._path)) as reader:
                return reader.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._meant(error) from error

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            closing = False
            while len(batch) < _GROUP_MAX and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    closing = True
                    break
                batch.append(following)
            self._commit_batch(batch, loop)
            if closing:
                return

    def _commit_batch(
        self, batch: Sequence[tuple[list[Statement], asyncio.Future[None]]], loop: asyncio.AbstractEventLoop
    ) -> None:
        """All in one transaction; if that fails each alone, so that one bad write does not fail its neighbours."""
        error = self._transact([statement for statements, _ in batch for statement in statements])
        for statements, done in batch:
            alone = error if len(batch) == 1 or error is None else self._transact(statements)
            loop.call_soon_threadsafe(_finish, done, alone)

    def _transact(self, statements: Sequence[Statement]) -> BeemeshError | None:
        if gone := self._gone():
            return gone
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for sql, parameters in statements:
                self._connection.execute(sql, parameters)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return self._meant(error)
        return None

    def _meant(self, error: sqlite3.Error) -> BeemeshError:
        return self._gone() or faults.of_database(error, self._path, without=SCHEMA.without)

    def _gone(self) -> DataLoss | None:
        return faults.taken_away(self._path, self._inode, without=SCHEMA.without)


def _finish(done: asyncio.Future[None], error: BeemeshError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
