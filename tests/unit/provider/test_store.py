from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.provider.records import TOMBSTONE_TTL_MAX_MS, TTL_MAX_MS, TTL_MIN_MS, Kind, Record, Verdict, make
from services.provider.store import Caps, Change, Place, Reason, Store, tombstone_ttl_ms
from tests.unit.provider.samples import NOW_MS

SUBJECTS = ("web", "db")
SIGNERS = tuple(bytes([number]) * 32 for number in range(3))


def unsigned(*, signer: bytes = SIGNERS[0], subject: str = "web", seq: int = 1, **more: object) -> Record:
    """A record whose signature nobody checks: the store takes verified ones."""
    facts: dict[str, object] = {"issued_ms": NOW_MS, "ttl_ms": 900_000, "tombstone": False} | more
    return make(
        kind=Kind.PROVIDER,
        subject=subject,
        public_key=signer,
        sign=lambda _: bytes(64),
        seq=seq,
        **facts,  # type: ignore[arg-type]  # the fields by name
    )


def place(record: Record) -> Place:
    return record.key, record.provider


@dataclass
class Known:
    record: Record
    horizon_ms: int


class StoreMachine(RuleBasedStateMachine):
    """Signers announce and withdraw; the network delivers late, twice or never; the store agrees with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(secret=b"s" * 32)
        self.now_ms = NOW_MS
        self.seq = 0
        self.signed: list[Record] = []
        self.horizons: dict[Place, int] = {}
        self.model: dict[Place, Known] = {}
        self.withdrawn: dict[Place, int] = {}
        self.seen: dict[Place, Record] = {}

    @rule(
        signer=st.sampled_from(SIGNERS),
        subject=st.sampled_from(SUBJECTS),
        ttl_ms=st.sampled_from([TTL_MIN_MS, 900_000, TTL_MAX_MS]),
        delivered=st.booleans(),
    )
    def announce(self, signer: bytes, subject: str, ttl_ms: int, delivered: bool) -> None:
        self.sign(signer, subject, ttl_ms=ttl_ms, tombstone=False, delivered=delivered)

    @rule(signer=st.sampled_from(SIGNERS), subject=st.sampled_from(SUBJECTS), delivered=st.booleans())
    def withdraw(self, signer: bytes, subject: str, delivered: bool) -> None:
        where = place(unsigned(signer=signer, subject=subject))
        ttl_ms = tombstone_ttl_ms(self.horizons.get(where, self.now_ms), self.now_ms)
        ttl_ms = min(max(TTL_MIN_MS, ttl_ms), TOMBSTONE_TTL_MAX_MS)
        self.sign(signer, subject, ttl_ms=ttl_ms, tombstone=True, delivered=delivered)

    @rule(number=st.integers(0, 1_000))
    def deliver_again(self, number: int) -> None:
        if self.signed:
            self.deliver(self.signed[number % len(self.signed)])

    @rule(seconds=st.sampled_from([0.5, 1, 29, 30, 31, 900, 90_000, 200_000]))
    def time_passes(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    @rule()
    def expire(self) -> None:
        self.watch(self.store.expire(self.now_ms))
        assert self.seen == self.live()

    @rule(ttl_ms=st.sampled_from([TTL_MIN_MS, TTL_MAX_MS]))
    def forge_a_sequence(self, ttl_ms: int) -> None:
        """The same sequence with other bytes is refused and changes nothing."""
        for where, known in self.model.items():
            if self.now_ms < known.record.expires_ms:
                fake = make(
                    kind=Kind.PROVIDER,
                    subject=known.record.subject,
                    public_key=known.record.public_key,
                    sign=lambda _: bytes(63) + b"!",
                    seq=known.record.seq,
                    issued_ms=self.now_ms,
                    ttl_ms=ttl_ms,
                )
                assert self.store.put(fake, now_ms=self.now_ms).verdict is Verdict.BAD, where

    @invariant()
    def live_is_live(self) -> None:
        """Expired is never served, live is never missed, and a tombstone wins over all that came before it."""
        held = {place(h.record): h.record for h in self.store.all_live(self.now_ms, Kind.PROVIDER)}
        assert held == self.live()
        assert all(record.seq > self.withdrawn.get(where, 0) for where, record in held.items())

    @invariant()
    def sums_hold(self) -> None:
        entries = [e for by in self.store._entries.values() for e in by.values()]
        assert self.store.count == len(entries)
        assert self.store.size == sum(len(e.holding.record.packet) for e in entries)
        assert len(self.store._due) <= 2 * len(entries) + 65

    def sign(self, signer: bytes, subject: str, *, ttl_ms: int, tombstone: bool, delivered: bool) -> None:
        self.seq += 1
        made = unsigned(
            signer=signer, subject=subject, seq=self.seq, issued_ms=self.now_ms, ttl_ms=ttl_ms, tombstone=tombstone
        )
        self.signed.append(made)
        self.horizons[place(made)] = max(self.horizons.get(place(made), 0), made.expires_ms)
        if delivered:
            self.deliver(made)
            if tombstone:
                self.withdrawn[place(made)] = made.seq

    def deliver(self, record: Record) -> None:
        put = self.store.put(record, now_ms=self.now_ms)
        self.watch(put.changes)
        assert put.verdict is self.expected(record)
        if put.verdict is Verdict.OK:
            known = self.model.get(place(record))
            horizon_ms = max(record.expires_ms, known.horizon_ms if known else 0)
            self.model[place(record)] = Known(record, horizon_ms)

    def expected(self, record: Record) -> Verdict:
        known = self.model.get(place(record))
        if record.expires_ms <= self.now_ms:
            return Verdict.EXPIRED
        if known is None or known.horizon_ms <= self.now_ms or record.seq > known.record.seq:
            return Verdict.OK
        return Verdict.SAME if record.seq == known.record.seq else Verdict.STALE

    def live(self) -> dict[Place, Record]:
        return {
            where: known.record
            for where, known in self.model.items()
            if not known.record.tombstone and known.record.expires_ms > self.now_ms
        }

    def watch(self, changes: Iterable[Change]) -> None:
        for change in changes:
            record = change.holding.record
            if change.reason in (Reason.ANNOUNCED, Reason.RENEWED):
                self.seen[place(record)] = record
            else:
                del self.seen[place(record)]


StoreMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStoreAgainstADict = StoreMachine.TestCase


def test_a_full_store_refuses_others_but_never_this_nodes_own() -> None:
    """With no room left others' records are FULL, this node's own still enter, and known places can be renewed."""
    store = Store(secret=b"s" * 32, caps=Caps(records=1))
    assert store.put(unsigned(seq=1), now_ms=NOW_MS).verdict is Verdict.OK
    assert store.put(unsigned(signer=SIGNERS[1], seq=2), now_ms=NOW_MS).verdict is Verdict.FULL
    assert store.put(unsigned(signer=SIGNERS[2], seq=3), now_ms=NOW_MS, own=True).verdict is Verdict.OK
    assert store.put(unsigned(seq=4), now_ms=NOW_MS).verdict is Verdict.OK


def test_one_source_cannot_fill_the_store() -> None:
    """Beyond its share a source is refused, while another is not; what ends gives its share back."""
    store = Store(secret=b"s" * 32, caps=Caps(per_source=1))
    assert store.put(unsigned(seq=1, ttl_ms=30_000), now_ms=NOW_MS, source="a").verdict is Verdict.OK
    assert store.put(unsigned(signer=SIGNERS[1], seq=2), now_ms=NOW_MS, source="a").verdict is Verdict.FULL
    assert store.put(unsigned(signer=SIGNERS[2], seq=3), now_ms=NOW_MS, source="b").verdict is Verdict.OK
    store.expire(NOW_MS + 30_000)
    late = NOW_MS + 30_000
    assert store.put(unsigned(signer=SIGNERS[1], seq=2), now_ms=late, source="a").verdict is Verdict.OK


def test_bytes_are_capped() -> None:
    """When the packets together are too large, others' records are refused."""
    first = unsigned(seq=1)
    store = Store(secret=b"s" * 32, caps=Caps(size=len(first.packet)))
    assert store.put(first, now_ms=NOW_MS).verdict is Verdict.OK
    assert store.put(unsigned(signer=SIGNERS[1], seq=2), now_ms=NOW_MS).verdict is Verdict.FULL


def test_an_overfull_key_keeps_a_sample_that_order_does_not_decide() -> None:
    """Beyond its cap a key keeps the same providers whatever the order in which they came, and says who had to go."""
    signers = [number.to_bytes(32, "big") for number in range(40)]
    kept = []
    for order in (signers, signers[::-1]):
        store = Store(secret=b"s" * 32, caps=Caps(per_key=8))
        watched: set[bytes] = set()
        for seq, signer in enumerate(order, start=1):
            for change in store.put(unsigned(signer=signer, seq=seq), now_ms=NOW_MS).changes:
                provider = change.holding.record.provider
                (watched.discard if change.reason is Reason.FORGOTTEN else watched.add)(provider)
        live = {h.record.provider for h in store.live(unsigned().key, NOW_MS)}
        assert len(live) == 8
        assert watched == live
        kept.append(live)
    assert kept[0] == kept[1]


def test_holders_hand_on_tombstones() -> None:
    """What is handed on holds valid records and tombstones, in provider order, and nothing that has ended."""
    store = Store(secret=b"s" * 32)
    store.put(unsigned(signer=SIGNERS[0], seq=1, tombstone=True), now_ms=NOW_MS)
    store.put(unsigned(signer=SIGNERS[1], seq=2), now_ms=NOW_MS)
    store.put(unsigned(signer=SIGNERS[2], seq=3, ttl_ms=30_000), now_ms=NOW_MS)
    handed = store.to_hand_on(unsigned().key, NOW_MS + 30_000)
    assert {r.seq for r in handed} == {1, 2}
    assert [r.provider for r in handed] == sorted(r.provider for r in handed)


def test_what_ended_stays_listed_until_it_is_renewed() -> None:
    """The past holds what ended, until the same provider announces again."""
    store = Store(secret=b"s" * 32)
    store.put(unsigned(seq=1), now_ms=NOW_MS)
    store.expire(NOW_MS + 900_000)
    assert [h.record.seq for h in store.past()] == [1]
    store.put(unsigned(seq=2, issued_ms=NOW_MS + 900_000), now_ms=NOW_MS + 900_000)
    assert store.past() == []
