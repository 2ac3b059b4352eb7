"""An orchestrator's core on fakes, with a real database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.manifests.reader import Reader
from services.orchestrator.apply import Applier
from services.orchestrator.book import Book
from services.orchestrator.history import History
from services.orchestrator.ledger import Ledger, Room
from services.orchestrator.model import Announced, Deployment
from services.orchestrator.operations import Operations
from services.orchestrator.outbox import Outbox
from services.orchestrator.reconciler import Reconciler
from services.orchestrator.store import Store
from tests.unit.orchestrator.fakes import FakeEngines, FakeProviders

NODE = "ab" * 20
ROOM = Room(cpu_cores=4.0, memory_bytes=8 << 30)


class Wall:
    """A wall clock that goes on a millisecond each time it is read, and jumps when it is told to."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds."""
        self._now += 0.001
        return self._now

    def jump(self, seconds: float) -> None:
        """Somebody sets it."""
        self._now += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The parts under test."""

    applier: Applier
    operations: Operations
    book: Book
    outbox: Outbox
    store: Store
    history: History
    reconciler: Reconciler
    engines: FakeEngines
    providers: FakeProviders

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Let the tasks run until the condition holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)


def _text(record: Deployment) -> Announced:
    return Announced(
        metadata={"runtime_engine": record.engine_id, "workload_id": record.workload_id},
        digest=record.wish.canonical_digest,
        kind="Pod",
        owner="",
        engine_id=record.engine_id,
        apply_time=record.create_time,
    )


@asynccontextmanager
async def running(
    path: Path, engines: FakeEngines, providers: FakeProviders, wall: Wall | None = None
) -> AsyncIterator[Core]:
    """The core of one orchestrator process, from its start to its end; its wall clock is `wall`."""
    async with Store(path) as store, asyncio.TaskGroup() as tasks:
        reader = Reader()  # its thread begins with the first long text
        ledger = Ledger(ROOM)
        clock = (wall or Wall()).now
        history = History(store=store, epoch="test", clock=clock)
        book = Book(store=store, epoch="test", ledger=ledger, history=history)
        outbox = Outbox(
            store=store,
            book=book,
            history=history,
            providers=providers,
            text=_text,
            refresh_seconds=300,
        )
        operations = Operations(book=book, engines=engines, outbox=outbox, history=history, clock=clock, tasks=tasks)
        applier = Applier(
            book=book,
            engines=engines,
            outbox=outbox,
            operations=operations,
            ledger=ledger,
            store=store,
            history=history,
            reader=reader,
            node_id=NODE,
            clock=clock,
        )
        reconciler = Reconciler(book=book, engines=engines, applier=applier, history=history, clock=clock)
        history.load()
        book.load()
        outbox.load()
        background = [tasks.create_task(outbox.run()), tasks.create_task(reconciler.run())]
        operations.resume()
        try:
            yield Core(
                applier=applier,
                operations=operations,
                book=book,
                outbox=outbox,
                store=store,
                history=history,
                reconciler=reconciler,
                engines=engines,
                providers=providers,
            )
        finally:
            operations.interrupt_all()
            for task in background:
                task.cancel()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Core]]:
    """Start an orchestrator's core on this test's database."""

    def started(
        engines: FakeEngines, providers: FakeProviders | None = None, wall: Wall | None = None
    ) -> contextlib.AbstractAsyncContextManager[Core]:
        return running(tmp_path / "orchestrator.db", engines, providers or FakeProviders(), wall)

    return started


Start = Callable[..., contextlib.AbstractAsyncContextManager[Core]]
