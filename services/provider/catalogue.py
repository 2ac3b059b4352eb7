"""All records this node can tell about, its own and others': taken in, found, ordered and watched.

Knows no gRPC; the clock is handed in.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable

from services.provider import discovery, metadata, records
from services.provider.discovery import Candidate, Selector
from services.provider.records import Kind, Record
from services.provider.store import Change, Holding, Put, Reason, Store
from services.rpc.watch import Event, Feed


class Catalogue:
    """The store with a clock and a feed: whatever becomes visible or ends is told to watchers at once."""

    def __init__(self, *, store: Store, epoch: str, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970; `epoch` names this run of the feed."""
        self._store = store
        self._clock = clock
        self._feed: Feed[Holding] = Feed(epoch=epoch)

    def now_ms(self) -> int:
        """The clock, in milliseconds since 1970."""
        return int(self._clock() * 1000)

    def put(self, record: Record, *, own: bool = False, source: str = "", horizon_ms: int = 0, seen_ms: int = 0) -> Put:
        """Take in a verified record."""
        put = self._store.put(
            record, now_ms=self.now_ms(), own=own, source=source, horizon_ms=horizon_ms, seen_ms=seen_ms
        )
        self._notice(put.changes)
        return put

    def expire(self) -> None:
        """Notice what has ended."""
        self._notice(self._store.expire(self.now_ms()))

    def to_hand_on(self, key: bytes) -> list[Record]:
        """The valid records and tombstones under a key, in provider order."""
        return self._store.to_hand_on(key, self.now_ms())

    def discover(self, manifest_id: str, wanted: Selector, *, limit: int) -> list[Holding]:
        """Live providers of a manifest that fit, the best first."""
        found = self._store.live(records.key_of(Kind.PROVIDER, manifest_id), self.now_ms())
        return discovery.best_first(found, wanted, look=candidate)[:limit]

    def discover_nodes(self, wanted: Selector, *, limit: int) -> list[Holding]:
        """Live nodes that fit, the best first."""
        return discovery.best_first(self._store.all_live(self.now_ms(), Kind.NODE), wanted, look=candidate)[:limit]

    def providers(self, wanted: Selector, *, foreign: bool = False, expired: bool = False) -> list[Holding]:
        """All announcements that fit, in no order; `expired` adds the last ones that ended."""
        past = [h for h in self._store.past() if h.record.kind is Kind.PROVIDER] if expired else []
        return [
            h
            for h in (*self._store.all_live(self.now_ms(), Kind.PROVIDER), *past)
            if (h.own or foreign) and discovery.fits(candidate(h), wanted)
        ]

    def find(self, kind: Kind, subject: str, node_id: str) -> Holding | None:
        """One live record of one node."""
        return self._store.find(records.key_of(kind, subject), bytes.fromhex(node_id), self.now_ms())

    def newest(self, kind: Kind, subject: str) -> Holding | None:
        """The live record of a subject that was issued last, whoever signed it."""
        return self.newest_under(records.key_of(kind, subject))

    def newest_under(self, key: bytes) -> Holding | None:
        """The same by key; a key belongs to one kind."""
        found = self._store.live(key, self.now_ms())
        return max(found, key=lambda h: (h.record.issued_ms, h.record.provider), default=None)

    def close(self) -> None:
        """End all watches."""
        self._feed.close()

    def counts(self) -> tuple[int, int]:
        """Records held, tombstones included, and the bytes of their packets."""
        return self._store.count, self._store.size

    def watch(self, *, resume_token: str, match: Callable[[Holding], bool]) -> AsyncGenerator[Event[Holding], None]:
        """The providers that match: snapshot, SYNCED, changes."""
        return self._feed.watch(resume_token=resume_token, match=match)

    def _notice(self, changes: Iterable[Change]) -> None:
        for change in changes:
            record = change.holding.record
            if record.kind is not Kind.PROVIDER:
                continue
            if change.reason in (Reason.ANNOUNCED, Reason.RENEWED):
                self._feed.put(provider_name(record), change.holding, reason=change.reason)
            else:
                self._feed.remove(provider_name(record), last=change.holding, reason=change.reason)


def provider_name(record: Record) -> str:
    """The resource name of an announcement."""
    return f"manifests/{record.subject}/providers/{record.node_id}"


def candidate(holding: Holding) -> Candidate:
    """What is judged of a record."""
    record = holding.record
    facts = metadata.facts(record.metadata)
    return Candidate(
        engines=facts.capabilities if record.kind is Kind.NODE else (facts.runtime_engine,),
        facts=facts,
        metadata=record.metadata,
        issued_ms=record.issued_ms,
        node_id=record.node_id,
    )
