"""What the book keeps in memory is what its database keeps, to the same limits."""

from __future__ import annotations

from pathlib import Path

from services.orchestrator import store as db
from services.orchestrator.book import Book
from services.orchestrator.history import History
from services.orchestrator.ledger import Ledger
from services.orchestrator.store import Store
from tests.unit.orchestrator.conftest import ROOM
from tests.unit.orchestrator.test_flow import RECORD


def a_book(store: Store) -> Book:
    """One that remembers two requests."""
    history = History(store=store, epoch="e", clock=lambda: 1.0)
    return Book(store=store, epoch="e", ledger=Ledger(ROOM), history=history, requests_max=2)


async def test_the_oldest_request_ids_are_forgotten_in_memory_too(tmp_path: Path) -> None:
    """The newest two are known, before and after a restart; one that is used again counts as new."""
    async with Store(tmp_path / "x.db") as store:
        book, after = a_book(store), a_book(store)
        for number, request_id in enumerate(("a", "b", "a", "c")):
            request = db.Request(request_id=request_id, deployment_id="web", digest="d", time=float(number))
            await book.save(RECORD, request=request)
        after.load()
        for each in (book, after):
            assert [each.request(name) is not None for name in "abc"] == [True, False, True]
