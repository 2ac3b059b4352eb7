"""What a provider keeps over a restart: SQLite, one writer thread, many writes in one durable transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.data_dir import database, faults
from services.data_dir.database import Schema
from services.errors import BeemeshError, FailedPrecondition, ResourceExhausted

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
  key BLOB NOT NULL,
  provider BLOB NOT NULL,
  packet BLOB NOT NULL,
  seen_ms INTEGER NOT NULL,
  horizon_ms INTEGER NOT NULL,
  own INTEGER NOT NULL,
  kept INTEGER NOT NULL,
  request_id TEXT NOT NULL,
  request_digest TEXT NOT NULL,
  PRIMARY KEY (key, provider)
) WITHOUT ROWID;
"""
SCHEMA = Schema(migrations=(_TABLES,), without="announcements are then made anew")

_UPSERT = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM records WHERE key = ? AND provider = ?"
_LAST_SEQ = "INSERT OR REPLACE INTO facts VALUES ('last_seq', ?)"
_PENDING_MAX = 8192
_BATCH_MAX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A persisted record."""

    key: bytes
    provider: bytes
    packet: bytes
    seen_ms: int
    horizon_ms: int
    own: bool
    kept: bool = False
    """The provider renews it by itself."""
    request_id: str = ""
    request_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One transaction's part: rows to put, places to delete, and the sequence that must never be used again."""

    rows: Sequence[Row] = ()
    deleted: Sequence[tuple[bytes, bytes]] = ()
    last_seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    write: Write
    then: Callable[[bool], None]
    done: asyncio.Future[None]


class Journal:
    """Opened with `Journal.open`; `run` must be running for `commit` to end; `stop`, await `run`, then `close`."""

    def __init__(self, connection: sqlite3.Connection, *, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._inode = path.stat().st_ino
        self._pending: list[_Pending] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="provider-journal")

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open or create; raises what `open_database` does."""
        return cls(database.open_database(path, SCHEMA), path=path)

    def node_id(self) -> str:
        """The node whose records these are; "" for a new one."""
        return self._fact("node_id")

    def claim(self, node_id: str) -> None:
        """Say once whose records these are; raises FailedPrecondition (IDENTITY_MISMATCH) when they are another's."""
        known = self.node_id()
        if known and known != node_id:
            raise FailedPrecondition(
                f"{self._path} holds the records of node {known}, but node.key is that of {node_id}; "
                "restore the key that belongs to it, or move the file away",
                reason="IDENTITY_MISMATCH",
                metadata={"path": str(self._path), "expected": known, "found": node_id},
            )
        if not known:
            try:
                self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('node_id', ?)", (node_id,))
            except sqlite3.Error as error:
                raise self._meant(error) from error

    def last_seq(self) -> int:
        """The greatest sequence ever used; 0 for none."""
        return int(self._fact("last_seq") or 0)

    def rows(self) -> list[Row]:
        """All that is persisted."""
        cursor = self._connection.execute("SELECT * FROM records")
        return [
            Row(
                key=key,
                provider=provider,
                packet=packet,
                seen_ms=seen_ms,
                horizon_ms=horizon_ms,
                own=bool(own),
                kept=bool(kept),
                request_id=request_id,
                request_digest=request_digest,
            )
            for key, provider, packet, seen_ms, horizon_ms, own, kept, request_id, request_digest in cursor
        ]

    async def commit(self, write: Write, *, then: Callable[[bool], None] = lambda _durable: None) -> None:
        """Make `write` durable and call `then(whether it is)`; both happen even if the caller goes away.

        Commits end in the order in which they began. Raises ResourceExhausted (DISK_FULL, JOURNAL_BUSY),
        FailedPrecondition(DATA_DIR_READ_ONLY), DataLoss (DATABASE_CORRUPT, DATABASE_GONE), Unavailable(STORE_ERROR).
        """
        if len(self._pending) >= _PENDING_MAX:
            then(False)
            raise ResourceExhausted(
                f"{_PENDING_MAX} writes are waiting for the disk; retry later", reason="JOURNAL_BUSY", retry_after=1.0
            )
        done = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(write=write, then=then, done=done))
        self._wake.set()
        await done

    async def run(self) -> None:
        """Write what is pending until `stop` is called and nothing is."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._write_batch()

    def stop(self) -> None:
        """Let `run` end once all that was begun is written."""
        self._stopping = True
        self._wake.set()

    def close(self) -> None:
        """Wait for the writer and close the file."""
        self._thread.shutdown(wait=True)
        self._connection.close()

    async def _write_batch(self) -> None:
        batch, self._pending = self._pending[:_BATCH_MAX], self._pending[_BATCH_MAX:]
        failure: BeemeshError | None = None
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._write, [item.write for item in batch])
        except BeemeshError as error:
            failure = error
        except sqlite3.Error as error:
            failure = self._meant(error)
        for item in batch:
            item.then(failure is None)
            if item.done.done():
                continue
            if failure is None:
                item.done.set_result(None)
            else:
                item.done.set_exception(failure)

    def _write(self, writes: Sequence[Write]) -> None:
        if gone := faults.taken_away(self._path, self._inode, without=SCHEMA.without):
            raise gone
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                self._connection.executemany(_DELETE, write.deleted)
                self._connection.executemany(_UPSERT, [_values(row) for row in write.rows])
            if last := max((write.last_seq for write in writes), default=0):
                self._connection.execute(_LAST_SEQ, (str(last),))
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _meant(self, error: sqlite3.Error) -> BeemeshError:
        return faults.of_database(error, self._path, without=SCHEMA.without)

    def _fact(self, name: str) -> str:
        found = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""


def _values(row: Row) -> tuple[object, ...]:
    return (
        row.key,
        row.provider,
        row.packet,
        row.seen_ms,
        row.horizon_ms,
        row.own,
        row.kept,
        row.request_id,
        row.request_digest,
    )
