"""A feed of keyed items: snapshot, SYNCED, changes, BOOKMARK; resumable, bounded, and free of gRPC.

Every watch of the system is served by one of these, so that all of them behave alike.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from services.errors import Aborted, InvalidArgument, OutOfRange, Unavailable

T = TypeVar("T")

_DIGITS_MAX = 18


class EventType(IntEnum):
    """The numbers of beemesh.type.v1.WatchEventType."""

    SNAPSHOT = 1
    SYNCED = 2
    ADDED = 3
    UPDATED = 4
    REMOVED = 5
    BOOKMARK = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Generic[T]):
    """One message of a watch; SYNCED and BOOKMARK have no item."""

    type: EventType
    token: str
    """Resume after this event by passing it back."""
    item: T | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change(Generic[T]):
    sequence: int
    key: str
    type: EventType
    item: T
    reason: str


class _Watcher(Generic[T]):
    """What one watcher has not read yet."""

    __slots__ = ("backlog", "is_cut", "queue", "snapshot")

    def __init__(self) -> None:
        self.backlog: deque[_Change[T]] = deque()
        """What came after its token."""
        self.snapshot: deque[T] = deque()
        self.queue: asyncio.Queue[_Change[T] | None] = asyncio.Queue()
        """What happened since, as much as the feed has room for; None: it was cut."""
        self.is_cut = False


class Feed(Generic[T]):
    """Items by key, and a bounded log of their changes.

    `epoch` names this run of the feed: a token of another run, or one older than the log, ends in OUT_OF_RANGE. A
    watcher that lets more than `buffer` changes pile up, and more than all items changing twice, is cut with ABORTED.
    """

    def __init__(self, *, epoch: str, log_size: int = 2048, buffer: int = 512, bookmark_seconds: float = 30.0) -> None:
        if ":" in epoch:
            raise ValueError("an epoch has no colon")
        self._epoch = epoch
        self._items: dict[str, T] = {}
        self._log: deque[_Change[T]] = deque(maxlen=log_size)
        self._sequence = 0
        self._buffer = buffer
        self._bookmark_seconds = bookmark_seconds
        self._watchers: dict[str, set[_Watcher[T]]] = {}
        """By the key that they follow, "" for all: who waits for one of many items is not woken for the others."""
        self._closed = False

    @property
    def token(self) -> str:
        """Where the feed stands now."""
        return self._token(self._sequence)

    @property
    def watchers(self) -> int:
        """How many watch now; who was cut is none."""
        return sum(map(len, self._watchers.values()))

    def get(self, key: str) -> T | None:
        """The item of this key."""
        return self._items.get(key)

    def items(self) -> dict[str, T]:
        """A copy of all items by key."""
        return dict(self._items)

    def put(self, key: str, item: T, *, reason: str = "") -> bool:
        """Add or update; an equal item is no change. Returns whether anything changed."""
        known = self._items.get(key)
        if known is not None and known == item:
            return False
        self._items[key] = item
        self._record(key, EventType.ADDED if known is None else EventType.UPDATED, item, reason)
        return True

    def remove(self, key: str, *, last: T | None = None, reason: str = "") -> bool:
        """Remove; watchers see `last`, or the item as it was. Returns whether it was there."""
        known = self._items.pop(key, None)
        if known is None:
            return False
        self._record(key, EventType.REMOVED, known if last is None else last, reason)
        return True

    def close(self) -> None:
        """End every watch with Unavailable, now and from now on: without it, draining waits for watchers in vain."""
        self._closed = True
        for key, watchers in list(self._watchers.items()):
            for watcher in list(watchers):
                self._cut(key, watcher)

    async def watch(
        self,
        *,
        resume_token: str = "",
        key: str = "",
        match: Callable[[T], bool] | None = None,
        skip_snapshot: bool = False,
    ) -> AsyncGenerator[Event[T], None]:
        """Yield the snapshot (or what came after `resume_token`), SYNCED, then changes until the caller stops.

        `key`: of this item alone, which costs nothing for all the others. Raises OutOfRange, InvalidArgument (a token
        that is none), Aborted (too slow), Unavailable (closed).
        """
        self._check_open()
        wanted = match or (lambda _item: True)
        watcher = _Watcher[T]()
        if resume_token:
            backlog = self._backlog(resume_token)
            watcher.backlog.extend(c for c in backlog if key in ("", c.key) and wanted(c.item))
            del backlog
        elif not skip_snapshot:
            watcher.snapshot.extend(item for item in self._of(key) if wanted(item))
        start = self._sequence
        self._watchers.setdefault(key, set()).add(watcher)
        try:
            while watcher.backlog:
                yield self._event(watcher.backlog.popleft())
            while watcher.snapshot:
                yield Event(type=EventType.SNAPSHOT, token="", item=watcher.snapshot.popleft())
            if not watcher.is_cut:
                yield Event(type=EventType.SYNCED, token=self._token(start))
            async for event in self._follow(watcher.queue, start, wanted):
                yield event
        finally:
            self._leave(key, watcher)

    def _of(self, key: str) -> list[T]:
        if not key:
            return list(self._items.values())
        return [self._items[key]] if key in self._items else []

    async def _follow(
        self, queue: asyncio.Queue[_Change[T] | None], last: int, wanted: Callable[[T], bool]
    ) -> AsyncIterator[Event[T]]:
        clock = asyncio.get_running_loop().time
        silent_until = clock() + self._bookmark_seconds
        while True:
            try:
                async with asyncio.timeout_at(silent_until):
                    change = await queue.get()
            except TimeoutError:
                if queue.empty():  # all that was for this watcher has been read: what else happened was not
                    last = self._sequence
                yield Event(type=EventType.BOOKMARK, token=self._token(last))
                silent_until = clock() + self._bookmark_seconds
                continue
            if change is None:
                self._check_open()
                raise Aborted(
                    f"this watcher let more than {self._room} changes pile up; resume from its last token",
                    reason="SLOW_CONSUMER",
                )
            last = change.sequence
            if wanted(change.item):
                yield self._event(change)
                silent_until = clock() + self._bookmark_seconds

    @property
    def _room(self) -> int:
        """Changes that may wait for a watcher: all items may change in one moment, and back."""
        return max(self._buffer, 2 * len(self._items))

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the service is stopping; watch again when it is back", reason="SERVICE_STOPPING")

    def _record(self, key: str, kind: EventType, item: T, reason: str) -> None:
        self._sequence += 1
        change = _Change(sequence=self._sequence, key=key, type=kind, item=item, reason=reason)
        self._log.append(change)
        for followed in dict.fromkeys(("", key)):
            for watcher in list(self._watchers.get(followed, ())):
                if watcher.queue.qsize() >= self._room:
                    self._cut(followed, watcher)
                else:
                    watcher.queue.put_nowait(change)

    def _leave(self, key: str, watcher: _Watcher[T]) -> None:
        watchers = self._watchers.get(key, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(key, None)

    def _cut(self, key: str, watcher: _Watcher[T]) -> None:
        """From now on nothing is kept for it; it is told when it reads on."""
        self._leave(key, watcher)
        watcher.is_cut = True
        watcher.backlog.clear()
        watcher.snapshot.clear()
        while not watcher.queue.empty():
            watcher.queue.get_nowait()
        watcher.queue.put_nowait(None)

    def _backlog(self, token: str) -> list[_Change[T]]:
        epoch, _, number = token.partition(":")
        if not number.isdecimal() or len(number) > _DIGITS_MAX:
            raise InvalidArgument(f"resume_token {token[:80]!r} is none of ours", reason="BAD_RESUME_TOKEN")
        sequence = int(number)
        oldest = self._log[0].sequence if self._log else self._sequence + 1
        if epoch != self._epoch or sequence > self._sequence or sequence + 1 < oldest:
            raise OutOfRange("cannot resume from there any more; watch anew without a token", reason="RESUME_TOO_OLD")
        return [change for change in self._log if change.sequence > sequence]

    def _event(self, change: _Change[T]) -> Event[T]:
        return Event(type=change.type, token=self._token(change.sequence), item=change.item, reason=change.reason)

    def _token(self, sequence: int) -> str:
        return f"{self._epoch}:{sequence}"
