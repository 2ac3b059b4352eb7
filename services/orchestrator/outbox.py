"""The announce outbox: what the DHT should say is durable with the record, and is retried until it is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.errors import BeemeshError
from services.orchestrator import store as db
from services.orchestrator.book import Book
from services.orchestrator.history import History
from services.orchestrator.model import Announced, Deployment
from services.orchestrator.ports import Providers
from services.telemetry import Log

log = Log(__name__)

_CONCURRENCY = 8
_AT_ONCE = 64
_RETRY_FIRST, _RETRY_MAX = 0.2, 10.0


class Outbox:
    """One wanted announcement a deployment; the newest wish wins."""

    def __init__(
        self,
        *,
        store: db.Store,
        book: Book,
        history: History,
        providers: Providers,
        text: Callable[[Deployment], Announced],
        refresh_seconds: float,
    ) -> None:
        """`text` is what is said of a record; `refresh_seconds`: all is compared and said anew that often."""
        self._store = store
        self._book = book
        self._history = history
        self._listeners: list[Callable[[str], None]] = []
        self._providers = providers
        self._text = text
        self._refresh_seconds = refresh_seconds
        self._wanted: dict[str, bool] = {}
        self._said: dict[str, Announced | None] = {}
        """What was last said and confirmed; None: withdrawn. Absent: not known."""
        self._due: dict[str, None] = {}
        """To be looked at, the last first: what is to be said of them may have changed, or is not known to be said."""
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()

    def load(self) -> None:
        """Fill from the store, once, at start; all of it is said again, for the provider may have been reset."""
        self._wanted = {item.deployment_id: item.wanted for item in self._store.announcements()}
        self._due = dict.fromkeys(self._wanted)
        self._wake.set()

    def want(self, deployment_id: str, wanted: bool) -> db.Statement:
        """The statement that makes the wish durable; `wanted_now` must follow its commit."""
        return db.put_announcement(db.Announcement(deployment_id=deployment_id, wanted=wanted, done=False))

    def wanted_now(self, deployment_id: str, wanted: bool) -> None:
        """The wish is durable: say it."""
        self._wanted[deployment_id] = wanted
        self.refresh(deployment_id)

    def wants(self, deployment_id: str) -> bool:
        """Whether an announcement is wanted."""
        return self._wanted.get(deployment_id, False)

    def announced(self, deployment_id: str) -> bool:
        """Whether the provider has confirmed the announcement."""
        return self._said.get(deployment_id) is not None

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """`listener` is told the id of every deployment whose announcement has been confirmed or withdrawn."""
        self._listeners.append(listener)

    async def _tell(self, deployment_id: str, reason: str) -> None:
        await self._history.tell(deployment_id, reason)
        for listener in self._listeners:
            listener(deployment_id)

    def refresh(self, deployment_id: str = "") -> None:
        """What is said of it may have changed ("": of all, as when capabilities do): compare and say what differs."""
        if deployment_id:
            self._due.pop(deployment_id, None)
            self._due[deployment_id] = None
        else:
            self._due = dict.fromkeys(self._wanted) | self._due
        self._wake.set()

    async def withdrawn(self, deployment_id: str, timeout: float) -> bool:
        """Wait until nothing is announced; False if that took longer than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._moved:
                await self._moved.wait_for(lambda: self._wanted.get(deployment_id) is None)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Say what is wanted, for ever."""
        delay = _RETRY_FIRST
        compared = False
        while True:
            self._wake.clear()
            compared = compared or await self._compare()
            pending = await self._pending()
            unsaid = await self._say_all(pending)
            self._due = dict.fromkeys(unsaid) | self._due  # after all others, whom they must not keep waiting
            if compared and len(unsaid) < len(pending):
                continue
            failed = bool(unsaid) or not compared
            delay = min(delay * 2, _RETRY_MAX) if failed else _RETRY_FIRST
            try:
                async with asyncio.timeout(delay if failed else self._refresh_seconds):
                    await self._wake.wait()
                if failed:
                    await asyncio.sleep(_RETRY_FIRST)  # a wake-up must not turn retries into a storm
            except TimeoutError:
                if not failed:
                    self._said.clear()
                    self._due = dict.fromkeys(self._wanted)
                    compared = False

    async def _compare(self) -> bool:
        """Withdraw what is announced and no record wants (a database that was lost or put back); False: not known."""
        try:
            announced = await self._providers.announced()
        except BeemeshError as error:
            log.warning("announcements_not_listed", error=repr(error))
            return False
        for deployment_id in announced:
            if deployment_id not in self._wanted:
                self.wanted_now(deployment_id, False)
        return True

    async def _pending(self) -> list[tuple[str, Announced | None]]:
        """The next that are to be said; who is deployed or deleted now does not wait until thousands have been."""
        found: list[tuple[str, Announced | None]] = []
        for looked, deployment_id in enumerate(list(reversed(self._due)), 1):
            wanted = self._wanted.get(deployment_id)
            record = self._book.find(deployment_id) if wanted else None
            text = self._text(record) if record is not None else None
            if wanted is None or (deployment_id in self._said and self._said[deployment_id] == text):
                self._due.pop(deployment_id, None)
            else:
                found.append((deployment_id, text))
            if len(found) == _AT_ONCE:
                break
            if looked % _AT_ONCE == 0:
                await asyncio.sleep(0)  # thousands may have nothing new to say, and others want the loop
        return found

    async def _say_all(self, pending: list[tuple[str, Announced | None]]) -> list[str]:
        """Say these; the ids of those that could not be said."""
        limit = asyncio.Semaphore(_CONCURRENCY)

        async def one(deployment_id: str, text: Announced | None) -> bool:
            async with limit:
                return await self._say(deployment_id, text)

        said = await asyncio.gather(*(one(deployment_id, text) for deployment_id, text in pending))
        return [deployment_id for (deployment_id, _), done in zip(pending, said, strict=True) if not done]

    async def _say(self, deployment_id: str, text: Announced | None) -> bool:
        try:
            if text is None:
                await self._providers.withdraw(deployment_id)
            else:
                await self._providers.announce(deployment_id, text)
            await self._confirm(deployment_id, text)
        except BeemeshError as error:
            log.warning("announce_failed", deployment_id=deployment_id, wanted=text is not None, error=repr(error))
            return False
        return True

    async def _confirm(self, deployment_id: str, text: Announced | None) -> None:
        """Note that it is said; if another wish came meanwhile, that one is still pending and nothing is lost."""
        news = self._said.get(deployment_id) != text
        self._said[deployment_id] = text
        if news and self._book.find(deployment_id) is not None:
            await self._tell(deployment_id, "WITHDRAWN" if text is None else "ANNOUNCED")
        if text is None and not self._wanted.get(deployment_id, False):
            await self._store.commit(db.drop_announcement(deployment_id))
            if not self._wanted.get(deployment_id, False):
                self._wanted.pop(deployment_id, None)
                self._said.pop(deployment_id, None)
        async with self._moved:
            self._moved.notify_all()
