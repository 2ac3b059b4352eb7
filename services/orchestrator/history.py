"""What happened to each deployment: events, durable with the change they tell of, kept to a limit, followed live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from services.errors import InvalidArgument, OutOfRange
from services.orchestrator import store as db
from services.rpc.watch import Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentEvent:
    """One thing that happened; `sequence` grows over all deployments and over restarts."""

    sequence: int
    deployment_id: str
    time: float
    reason: str
    """UPPER_SNAKE_CASE: ENGINE_SELECTED, FALLBACK, ANNOUNCED, DRIFTED, …"""
    message: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


class History:
    """Writes, reads and follows events; `keep` is how many of each deployment stay."""

    def __init__(self, *, store: db.Store, epoch: str, clock: Callable[[], float], keep: int = 200) -> None:
        self._store = store
        self._clock = clock
        self._keep = keep
        self._last = 0
        self._feed: Feed[DeploymentEvent] = Feed(epoch=epoch)

    def load(self) -> None:
        """Go on counting where the last run ended, and above what a database that was put back has forgotten."""
        self._last = max(self._store.last_event(), int(self._clock() * 1000))

    def event(
        self, deployment_id: str, reason: str, message: str = "", attributes: Mapping[str, str] | None = None
    ) -> DeploymentEvent:
        """A new event, with the next number; it happened when its statements are committed."""
        self._last += 1
        return DeploymentEvent(
            sequence=self._last,
            deployment_id=deployment_id,
            time=self._clock(),
            reason=reason,
            message=message,
            attributes=dict(attributes or {}),
        )

    def statements(self, event: DeploymentEvent) -> list[db.Statement]:
        """What makes it durable; belongs into the transaction of the change that it tells of."""
        return db.put_event(event.sequence, event.deployment_id, msgspec.json.encode(event), keep=self._keep)

    def show(self, event: DeploymentEvent) -> None:
        """It is durable: tell those who follow."""
        self._feed.put(event.deployment_id, event)

    async def tell(self, deployment_id: str, reason: str, message: str = "") -> None:
        """An event that belongs to no other change: durable, then shown. Raises what the store does."""
        event = self.event(deployment_id, reason, message)
        await self._store.commit(*self.statements(event))
        self.show(event)

    def forget(self, deployment_id: str) -> None:
        """The deployment and its events are gone for good."""
        self._feed.remove(deployment_id)

    def close(self) -> None:
        """End every watch."""
        self._feed.close()

    def of(self, deployment_id: str, *, after: int = 0) -> Sequence[DeploymentEvent]:
        """The kept events of one deployment with a higher number, oldest first."""
        rows = self._store.events(deployment_id, after=after)
        return [msgspec.json.decode(row, type=DeploymentEvent) for row in rows]

    async def watch(self, deployment_id: str, *, token: str = "") -> AsyncGenerator[DeploymentEvent, None]:
        """The kept events (after `token`, the number of the last one seen), then new ones as they happen, each once.

        Raises InvalidArgument (a token that is none) and OutOfRange (events after it are no longer kept, or it is of
        a database that was lost).
        """
        if token and not token.isdecimal():
            raise InvalidArgument(f"resume_token {token[:40]!r} is none of ours", reason="BAD_RESUME_TOKEN")
        last = int(token[:18] or 0)
        if last > self._last:
            raise OutOfRange("this token is of events that are not known here; watch anew", reason="RESUME_TOO_OLD")
        live = self._feed.watch(key=deployment_id, skip_snapshot=True)
        async with aclosing(live):
            await anext(live)  # subscribed: what happens from here on waits in the queue
            kept = await asyncio.to_thread(self.of, deployment_id)
            if token and len(kept) >= self._keep and kept[0].sequence > last + 1:
                raise OutOfRange("events after this token are no longer kept; watch anew", reason="RESUME_TOO_OLD")
            for event in kept:
                if event.sequence > last:
                    last = event.sequence
                    yield event
            async for change in live:
                if change.item is not None and change.item.sequence > last:
                    last = change.item.sequence
                    yield change.item
