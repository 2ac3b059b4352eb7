"""The records a node holds: key → provider → record; expiry, tombstones, caps. Pure: the time is an argument."""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from services.provider.records import SKEW_MS, Kind, Record, Verdict

Place = tuple[bytes, bytes]
"""Key and provider."""

_PAST_MAX = 1024


class Reason(StrEnum):
    """Why what is visible changed; these words travel on watches."""

    ANNOUNCED = "ANNOUNCED"
    RENEWED = "RENEWED"
    WITHDRAWN = "WITHDRAWN"
    EXPIRED = "EXPIRED"
    FORGOTTEN = "FORGOTTEN"
    """It made room for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How much of others' records is held; this node's own are bounded by whoever makes them."""

    records: int = 65_536
    size: int = 32 << 20
    """Bytes of all packets."""
    per_source: int = 4_096
    """Records that came from one address."""
    per_key: int = 512
    """Providers of one key; beyond it a keyed hash, which nobody outside knows, decides who stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A record as held here."""

    record: Record
    seen_ms: int
    """When this node last got it."""
    own: bool
    """Made by this node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What watchers see."""

    reason: Reason
    holding: Holding


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What became of a put."""

    verdict: Verdict
    seq: int
    """The sequence that counts now; 0 where none is known."""
    changes: tuple[Change, ...] = ()


@dataclass(slots=True, kw_only=True)
class Entry:
    """One place: the newest record, and how long older ones could still be replayed."""

    holding: Holding
    horizon_ms: int
    """Until then some superseded record would still be valid, so the newest sequence is remembered."""
    source: str
    lapsed: bool = False
    """Its end was noticed, or it is a tombstone: nobody sees it, only its sequence counts."""


class Store:
    """Newest record per place; a seq never goes back, an expired record is never given out."""

    def __init__(self, *, secret: bytes, caps: Caps | None = None) -> None:
        """`secret` keys the sampling of providers of overfull keys; 16 to 64 bytes."""
        self._secret = secret
        self._caps = caps or Caps()
        self._entries: dict[bytes, dict[bytes, Entry]] = {}
        self._due: list[tuple[int, bytes, bytes]] = []
        self._past: OrderedDict[Place, Holding] = OrderedDict()
        self._per_source: dict[str, int] = {}
        self._foreign = 0
        self._count = 0
        self._size = 0
        self.dirty: set[Place] = set()
        """Places that changed since whoever persists them last cleared this."""

    def put(
        self, record: Record, *, now_ms: int, own: bool = False, source: str = "", horizon_ms: int = 0, seen_ms: int = 0
    ) -> Put:
        """Take a verified record; the changes it makes visible come back with the verdict."""
        if record.expires_ms <= now_ms and horizon_ms <= now_ms:
            return Put(verdict=Verdict.EXPIRED, seq=0)
        entry = self._entries.get(record.key, {}).get(record.provider)
        if entry is not None and now_ms < entry.horizon_ms and record.seq <= entry.holding.record.seq:
            return self._not_newer(record, entry)
        evicted: tuple[Change, ...] = ()
        if entry is None and not own:
            room = self._make_room(record, source)
            if room is None:
                return Put(verdict=Verdict.FULL, seq=0)
            evicted = room
        holding = Holding(record=record, seen_ms=seen_ms or now_ms, own=own)
        change = _change(entry, holding, now_ms)
        horizon = max(horizon_ms, record.expires_ms, entry.horizon_ms if entry else 0)
        self._insert(holding, entry=entry, horizon_ms=horizon, source=source, lapsed=not _is_live(holding, now_ms))
        return Put(verdict=Verdict.OK, seq=record.seq, changes=evicted + ((change,) if change else ()))

    def expire(self, now_ms: int) -> list[Change]:
        """Notice what has ended by now, and forget what can no longer be replayed."""
        changes = []
        while self._due and self._due[0][0] <= now_ms:
            _, key, provider = heapq.heappop(self._due)
            entry = self._entries.get(key, {}).get(provider)
            if entry is None:
                continue
            if not entry.lapsed and entry.holding.record.expires_ms <= now_ms:
                entry.lapsed = True
                self._remember(entry.holding)
                changes.append(Change(reason=Reason.EXPIRED, holding=entry.holding))
                heapq.heappush(self._due, (entry.horizon_ms, key, provider))
            if entry.lapsed and entry.horizon_ms <= now_ms:
                self._remove(entry)
        return changes

    def live(self, key: bytes, now_ms: int) -> list[Holding]:
        """The records under a key that are valid now; tombstones are none."""
        return [h for e in self._entries.get(key, {}).values() if _is_live(h := e.holding, now_ms)]

    def all_live(self, now_ms: int, kind: Kind) -> Iterator[Holding]:
        """All valid records of a kind."""
        for providers in self._entries.values():
            for entry in providers.values():
                if entry.holding.record.kind is kind and _is_live(entry.holding, now_ms):
                    yield entry.holding

    def past(self) -> list[Holding]:
        """The last records that ended without being renewed since; bounded."""
        return list(self._past.values())

    def find(self, key: bytes, provider: bytes, now_ms: int) -> Holding | None:
        """The valid record of one provider."""
        entry = self._entries.get(key, {}).get(provider)
        return entry.holding if entry is not None and _is_live(entry.holding, now_ms) else None

    def to_hand_on(self, key: bytes, now_ms: int) -> list[Record]:
        """What a holder tells others about a key: valid records and tombstones, in provider order."""
        held = sorted(self._entries.get(key, {}).items())
        return [e.holding.record for _, e in held if e.holding.record.expires_ms > now_ms]

    def entry(self, place: Place) -> Entry | None:
        """What to persist of a place; None: delete it."""
        return self._entries.get(place[0], {}).get(place[1])

    @property
    def next_due_ms(self) -> int | None:
        """When `expire` next has something to look at."""
        return self._due[0][0] if self._due else None

    @property
    def count(self) -> int:
        """Records held, tombstones included."""
        return self._count

    @property
    def size(self) -> int:
        """Bytes of their packets."""
        return self._size

    def _not_newer(self, record: Record, entry: Entry) -> Put:
        known = entry.holding.record
        if record.seq < known.seq:
            return Put(verdict=Verdict.STALE, seq=known.seq)
        return Put(verdict=Verdict.SAME if record.packet == known.packet else Verdict.BAD, seq=known.seq)

    def _make_room(self, record: Record, source: str) -> tuple[Change, ...] | None:
        """None when there is no room; otherwise the changes that making room caused."""
        caps = self._caps
        if (
            self._foreign >= caps.records
            or self._size + len(record.packet) > caps.size
            or self._per_source.get(source, 0) >= caps.per_source
        ):
            return None
        foreign = [e for e in self._entries.get(record.key, {}).values() if not e.holding.own]
        if len(foreign) < caps.per_key:
            return ()
        last = max(foreign, key=lambda e: self._rank(e.holding.record.provider))
        if self._rank(record.provider) >= self._rank(last.holding.record.provider):
            return None
        self._remove(last)
        return () if last.lapsed else (Change(reason=Reason.FORGOTTEN, holding=last.holding),)

    def _rank(self, provider: bytes) -> bytes:
        return hashlib.blake2b(provider, key=self._secret, digest_size=8).digest()

    def _insert(self, holding: Holding, *, entry: Entry | None, horizon_ms: int, source: str, lapsed: bool) -> None:
        record = holding.record
        if entry is not None:
            source = entry.source
            self._remove(entry)
        fresh = Entry(holding=holding, horizon_ms=horizon_ms, source=source, lapsed=lapsed)
        self._entries.setdefault(record.key, {})[record.provider] = fresh
        self._tally(fresh, 1)
        self._past.pop((record.key, record.provider), None)
        self.dirty.add((record.key, record.provider))
        due = horizon_ms if lapsed else record.expires_ms
        heapq.heappush(self._due, (due, record.key, record.provider))
        if len(self._due) > 2 * self._count + 64:  # renewals leave entries of the past behind
            self._due = [(_due_ms(e), k, p) for k, by in self._entries.items() for p, e in by.items()]
            heapq.heapify(self._due)

    def _remove(self, entry: Entry) -> None:
        record = entry.holding.record
        providers = self._entries[record.key]
        del providers[record.provider]
        if not providers:
            del self._entries[record.key]
        self._tally(entry, -1)
        self.dirty.add((record.key, record.provider))

    def _tally(self, entry: Entry, sign: int) -> None:
        self._count += sign
        self._size += sign * len(entry.holding.record.packet)
        if entry.holding.own:
            return
        self._foreign += sign
        count = self._per_source.get(entry.source, 0) + sign
        if count:
            self._per_source[entry.source] = count
        else:
            del self._per_source[entry.source]

    def _remember(self, holding: Holding) -> None:
        self._past[holding.record.key, holding.record.provider] = holding
        if len(self._past) > _PAST_MAX:
            self._past.popitem(last=False)


def _is_live(holding: Holding, now_ms: int) -> bool:
    return not holding.record.tombstone and holding.record.expires_ms > now_ms


def _due_ms(entry: Entry) -> int:
    return entry.horizon_ms if entry.lapsed else entry.holding.record.expires_ms


def _change(before: Entry | None, after: Holding, now_ms: int) -> Change | None:
    """What watchers see when `after` takes the place of `before`."""
    visible = before.holding if before is not None and not before.lapsed else None
    if not _is_live(after, now_ms):
        if visible is None:
            return None
        return Change(reason=Reason.WITHDRAWN if _is_live(visible, now_ms) else Reason.EXPIRED, holding=visible)
    same = visible is not None and (visible.record.metadata, visible.record.address) == (
        after.record.metadata,
        after.record.address,
    )
    return Change(reason=Reason.RENEWED if same else Reason.ANNOUNCED, holding=after)


def tombstone_ttl_ms(horizon_ms: int, now_ms: int) -> int:
    """How long a tombstone made now must live so that no superseded record comes back after it."""
    return max(horizon_ms - now_ms, 0) + SKEW_MS
