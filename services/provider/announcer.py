"""A node's own announcements: made, kept, renewed, withdrawn. Knows no gRPC; the clock is the catalogue's."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.errors import BeemeshError, NotFound, QuotaViolation, ResourceExhausted
from services.provider import records
from services.provider.catalogue import Catalogue
from services.provider.journal import Journal, Row, Write
from services.provider.node_key import NodeKey
from services.provider.records import Kind, Record, Refused, Verdict
from services.provider.store import Holding, Store, tombstone_ttl_ms
from services.telemetry import Log

_TICK_SECONDS = 0.5
"""How late an expiry may be noticed; wall clocks step, so longer sleeps are not trusted."""
_SCAN_MS = 5_000
_RENEW_CHUNK = 64

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a caller wants to be known."""

    kind: Kind
    subject: str
    metadata: Mapping[str, str]
    address: str = ""
    ttl_ms: int
    kept: bool = True
    """Renewed here until it is withdrawn; else a lease that the caller renews."""
    request_id: str = ""

    def digest(self) -> str:
        """Tells a repeated request from another one that uses the same id."""
        text = json.dumps([self.kind, self.subject, dict(self.metadata), self.address, self.ttl_ms], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """The newest record made here for a key, durable or about to be."""

    record: Record
    horizon_ms: int
    kept: bool
    request_id: str = ""
    request_digest: str = ""

    def row(self) -> Row:
        record = self.record
        return Row(
            key=record.key,
            provider=record.provider,
            packet=record.packet,
            seen_ms=record.issued_ms,
            horizon_ms=self.horizon_ms,
            own=True,
            kept=self.kept,
            request_id=self.request_id,
            request_digest=self.request_digest,
        )


class Announcer:
    """Own announcements are durable before they are visible, and visible before the caller is answered.

    `load` first, then `run` for as long as it serves, `flush` at the end.
    """

    def __init__(
        self,
        *,
        key: NodeKey,
        store: Store,
        catalogue: Catalogue,
        journal: Journal,
        own_max: int = 16_384,
    ) -> None:
        """`store` is the catalogue's; only what persists it looks at it here."""
        self._key = key
        self._provider = bytes.fromhex(key.node_id)
        self._store = store
        self._journal = journal
        self._catalogue = catalogue
        self._own_max = own_max
        self._own: dict[bytes, _Own] = {}
        self._durable: dict[bytes, _Own] = {}
        self._last_seq = 0
        self._next_scan_ms = 0
        self.last_renewal_ms: int | None = None
        """When announcements were last renewed by themselves."""

    @property
    def node_id(self) -> str:
        """This node's id."""
        return self._key.node_id

    @property
    def public_key(self) -> bytes:
        """This node's public key."""
        return self._key.public_key

    # Own announcements

    async def announce(self, wanted: Announcement) -> Holding:
        """Sign and keep an announcement; a repeat renews it, a repeat of the same request id changes nothing.

        Raises InvalidArgument (RECORD_TOO_LARGE) and ResourceExhausted (STORE_FULL).
        """
        key = records.key_of(wanted.kind, wanted.subject)
        digest = wanted.digest()
        if (known := self._repeated(key, wanted.request_id, digest)) is not None:
            return known
        if key not in self._own and len(self._own) >= self._own_max:
            message = f"this node already announces {self._own_max} records; withdraw some first"
            raise ResourceExhausted(
                message,
                reason="STORE_FULL",
                quota=[QuotaViolation(subject="node:announcements", description=message)],
            )
        own = self._mint(wanted, digest, self._catalogue.now_ms())
        await self._commit([own])
        return Holding(record=own.record, seen_ms=own.record.issued_ms, own=True)

    async def withdraw(self, manifest_id: str, *, allow_missing: bool = False) -> None:
        """Withdraw this node's announcement of a manifest and its applied-manifest record, durably; raises NotFound."""
        now_ms = self._catalogue.now_ms()
        here = [
            own
            for kind in (Kind.PROVIDER, Kind.APPLIED)
            if (own := self._own.get(records.key_of(kind, manifest_id))) is not None
            and (own.kept or _is_live(own, now_ms))
        ]
        if not any(own.record.kind is Kind.PROVIDER for own in here) and not allow_missing:
            raise NotFound(
                f"this node does not announce manifest {manifest_id!r}",
                reason="PROVIDER_NOT_FOUND",
                metadata={"manifest_id": manifest_id, "node_id": self.node_id},
            )
        if here:
            await self._commit([self._mint_tombstone(own, now_ms) for own in here])

    def receive(self, packet: bytes, *, key: bytes | None, source: str) -> tuple[Verdict, int]:
        """Judge and keep a packet that came over the network; the verdict, and the sequence that counts now."""
        try:
            record = records.read(packet)
            records.check_time(record, self._catalogue.now_ms())
        except Refused as refused:
            log.debug("record_refused", source=source, verdict=refused.verdict, why=str(refused))
            return refused.verdict, 0
        if key is not None and record.key != key:
            return Verdict.BAD, 0
        if record.provider == self._provider:
            return self._receive_own(record)
        put = self._catalogue.put(record, source=source)
        return put.verdict, put.seq

    def own_count(self) -> int:
        """Own live records."""
        now_ms = self._catalogue.now_ms()
        return sum(1 for own in self._own.values() if _is_live(own, now_ms))

    # Over time

    def load(self) -> None:
        """Take up what the journal kept; announcements that fell due meanwhile are renewed before anyone asks."""
        self._last_seq = self._journal.last_seq()
        for row in self._journal.rows():
            try:
                record = records.read(row.packet, own=row.own)
            except Refused as refused:
                log.warning("kept_record_unreadable", provider=row.provider.hex(), why=str(refused))
                self._store.dirty.add((row.key, row.provider))
                continue
            self._last_seq = max(self._last_seq, record.seq if row.own else 0)
            if row.own:
                self._take_up(record, row)
            put = self._catalogue.put(
                record, own=row.own, source="kept", horizon_ms=row.horizon_ms, seen_ms=row.seen_ms
            )
            if put.verdict is not Verdict.OK:
                self._store.dirty.add((row.key, row.provider))

    async def run(self) -> None:
        """Renew, notice expiries and persist, until cancelled; a disk that refuses is tried again."""
        while True:
            try:
                await self.tick()
            except BeemeshError as error:
                log.error("renewal_failed", reason=error.reason, message=error.message)
            await asyncio.sleep(_TICK_SECONDS)

    async def tick(self) -> None:
        """One round of `run`: what was to be renewed is renewed before anything is called expired."""
        now_ms = self._catalogue.now_ms()
        if not 0 < self._next_scan_ms - now_ms <= _SCAN_MS:  # due, or the clock stepped
            self._next_scan_ms = now_ms + _SCAN_MS
            await self._renew(now_ms)
            await self.flush()
        self._catalogue.expire()

    async def flush(self) -> None:
        """Persist what changed in the records of others, and drop what has ended."""
        dirty, now_ms = list(self._store.dirty), self._catalogue.now_ms()
        self._store.dirty.clear()
        rows, deleted = [], []
        for place in dirty:
            entry = self._store.entry(place)
            if place[1] == self._provider:
                if entry is None and self._drop_ended(place[0], now_ms):
                    deleted.append(place)
            elif entry is None:
                deleted.append(place)
            else:
                record, held = entry.holding.record, entry.holding
                rows.append(
                    Row(
                        key=record.key,
                        provider=record.provider,
                        packet=record.packet,
                        seen_ms=held.seen_ms,
                        horizon_ms=entry.horizon_ms,
                        own=False,
                    )
                )
        if rows or deleted:

            def then(durable: bool) -> None:
                if not durable:
                    self._store.dirty.update(dirty)

            await self._journal.commit(Write(rows=rows, deleted=deleted), then=then)

    # Parts

    def _repeated(self, key: bytes, request_id: str, digest: str) -> Holding | None:
        own = self._durable.get(key)
        if own is None or not request_id or (own.request_id, own.request_digest) != (request_id, digest):
            return None
        return self._store.find(key, self._provider, self._catalogue.now_ms())

    def _mint(self, wanted: Announcement, digest: str, now_ms: int) -> _Own:
        record = self._sign(
            wanted.kind,
            wanted.subject,
            now_ms,
            ttl_ms=wanted.ttl_ms,
            address=wanted.address,
            entries=wanted.metadata,
        )
        before = self._own.get(record.key)
        return _Own(
            record=record,
            horizon_ms=max(record.expires_ms, before.horizon_ms if before else 0),
            kept=wanted.kept,
            request_id=wanted.request_id,
            request_digest=digest,
        )

    def _mint_tombstone(self, own: _Own, now_ms: int) -> _Own:
        ttl_ms = max(records.TTL_MIN_MS, tombstone_ttl_ms(own.horizon_ms, now_ms))
        ttl_ms = min(ttl_ms, records.TOMBSTONE_TTL_MAX_MS)
        record = self._sign(own.record.kind, own.record.subject, now_ms, ttl_ms=ttl_ms, tombstone=True)
        return replace(own, record=record, horizon_ms=max(own.horizon_ms, record.expires_ms), kept=False)

    def _sign(
        self,
        kind: Kind,
        subject: str,
        now_ms: int,
        *,
        ttl_ms: int,
        address: str = "",
        entries: Mapping[str, str] | None = None,
        tombstone: bool = False,
    ) -> Record:
        seq = max(self._last_seq + 1, now_ms)
        record = records.make(
            kind=kind,
            subject=subject,
            public_key=self._key.public_key,
            sign=self._key.sign,
            seq=seq,
            issued_ms=now_ms,
            ttl_ms=ttl_ms,
            tombstone=tombstone,
            address=address,
            metadata=entries,
        )
        self._last_seq = seq
        return record

    async def _commit(self, minted: list[_Own]) -> None:
        """Durable first, then visible; if the disk refuses, what was before counts again."""
        self._own.update({own.record.key: own for own in minted})

        def then(durable: bool) -> None:
            if durable:
                for own in minted:
                    self._publish(own)
            else:
                self._roll_back(minted)

        write = Write(rows=[own.row() for own in minted], last_seq=self._last_seq)
        await self._journal.commit(write, then=then)

    def _publish(self, own: _Own) -> None:
        self._durable[own.record.key] = own
        self._catalogue.put(own.record, own=True, horizon_ms=own.horizon_ms, seen_ms=own.record.issued_ms)

    def _roll_back(self, minted: list[_Own]) -> None:
        for own in minted:
            key = own.record.key
            if self._own.get(key) is not own:
                continue  # another announcement came after it
            if (durable := self._durable.get(key)) is None:
                del self._own[key]
            else:
                self._own[key] = durable

    def _receive_own(self, record: Record) -> tuple[Verdict, int]:
        """Our own words come back: nothing is learned but sequences that must not be used again."""
        self._last_seq = max(self._last_seq, record.seq)
        own = self._own.get(record.key)
        if own is not None and own.record.packet == record.packet:
            return Verdict.SAME, record.seq
        return Verdict.STALE, own.record.seq if own is not None else self._last_seq

    def _take_up(self, record: Record, row: Row) -> None:
        own = _Own(
            record=record,
            horizon_ms=row.horizon_ms,
            kept=row.kept,
            request_id=row.request_id,
            request_digest=row.request_digest,
        )
        self._own[record.key] = self._durable[record.key] = own

    async def _renew(self, now_ms: int) -> None:
        due = [own.record.key for own in self._own.values() if own.kept and _is_due(own.record, now_ms)]
        for start in range(0, len(due), _RENEW_CHUNK):
            current = [self._own[key] for key in due[start : start + _RENEW_CHUNK] if key in self._own]
            minted = [self._renewed(own, now_ms) for own in current if own.kept]
            await self._commit(minted)
            self.last_renewal_ms = now_ms

    def _renewed(self, own: _Own, now_ms: int) -> _Own:
        old = own.record
        record = self._sign(
            old.kind,
            old.subject,
            now_ms,
            ttl_ms=old.ttl_ms,
            address=old.address,
            entries=old.metadata,
        )
        return replace(own, record=record, horizon_ms=max(own.horizon_ms, record.expires_ms))

    def _drop_ended(self, key: bytes, now_ms: int) -> bool:
        """Forget an own record that nobody can replay any more; False when a newer one is on its way."""
        own = self._own.get(key)
        if own is not None and (own.kept or own.horizon_ms > now_ms):
            return False
        self._own.pop(key, None)
        self._durable.pop(key, None)
        return True


def _is_live(own: _Own, now_ms: int) -> bool:
    return not own.record.tombstone and own.record.expires_ms > now_ms


def _is_due(record: Record, now_ms: int) -> bool:
    """Whether to sign it anew: in time, or because the wall clock was set back: others refuse what is of tomorrow."""
    return now_ms >= _renew_at_ms(record) or now_ms < record.issued_ms - records.SKEW_MS


def _renew_at_ms(record: Record) -> int:
    """A third of its life after it was issued, ± 10 %: the signature's first byte spreads announcements in time."""
    return record.issued_ms + int(record.ttl_ms / 3 * (0.9 + 0.2 * record.packet[-64] / 255))
