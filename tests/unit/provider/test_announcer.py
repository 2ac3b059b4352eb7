from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from services.provider.announcer import Announcement, Announcer
from services.provider.catalogue import Catalogue
from services.provider.discovery import selector
from services.provider.journal import Journal
from services.provider.records import TTL_MAX_MS, Kind, Verdict
from services.provider.store import Holding, Store
from tests.unit.provider.samples import KEY, METADATA, NOW_MS, OTHER_KEY, Clock, record

ALL = selector()


class Provider:
    """An announcer and what it stands on."""

    def __init__(self, path: Path, clock: Clock, own_max: int) -> None:
        self.journal = Journal.open(path)
        self.journal.claim(KEY.node_id)
        self.store = Store(secret=b"s" * 32)
        self.catalogue = Catalogue(store=self.store, epoch="test", clock=clock)
        self.announcer = Announcer(
            key=KEY, store=self.store, catalogue=self.catalogue, journal=self.journal, own_max=own_max
        )

    async def announce(self, subject: str = "web", **more: object) -> Holding:
        return await self.announcer.announce(announcement(subject, **more))

    def found(self, subject: str = "web") -> list[int]:
        return [h.record.seq for h in self.catalogue.discover(subject, ALL, limit=100)]


def announcement(subject: str = "web", **more: object) -> Announcement:
    facts: dict[str, object] = {"kind": Kind.PROVIDER, "metadata": METADATA, "ttl_ms": 900_000} | more
    return Announcement(subject=subject, **facts)  # type: ignore[arg-type]  # the fields by name


@asynccontextmanager
async def running(directory: Path, clock: Clock, *, own_max: int = 100) -> AsyncIterator[Provider]:
    """A provider that has loaded and whose journal writes; its time passes when `tick` is called."""
    provider = Provider(directory / "provider.db", clock, own_max)
    provider.announcer.load()
    async with asyncio.TaskGroup() as group:
        group.create_task(provider.journal.run())
        try:
            await provider.announcer.tick()
            yield provider
            await provider.announcer.flush()
        finally:
            provider.journal.stop()
    provider.journal.close()


async def test_a_restart_keeps_records_and_sequence(tmp_path: Path) -> None:
    """After a restart the same bytes are there, and the next sequence is greater, though the clock went back."""
    clock = Clock()
    async with running(tmp_path, clock) as before:
        first = await before.announce()
    clock.advance(-30)
    async with running(tmp_path, clock) as after:
        held = after.catalogue.find(Kind.PROVIDER, "web", KEY.node_id)
        assert held is not None
        assert held.record.packet == first.record.packet
        again = await after.announce()
        assert again.record.seq > first.record.seq


async def test_announcements_are_renewed_until_they_are_withdrawn(tmp_path: Path) -> None:
    """An announcement outlives many TTLs without its caller, and is gone for good once withdrawn."""
    clock = Clock()
    async with running(tmp_path, clock) as provider:
        await provider.announce()
        for _ in range(10 * 900 // 5):
            clock.advance(5)
            await provider.announcer.tick()
            assert len(provider.found()) == 1
        renewals = provider.found()[0]
        assert renewals > NOW_MS + 8 * 900_000
        await provider.announcer.withdraw("web")
        for _ in range(3 * 900 // 5):
            clock.advance(5)
            await provider.announcer.tick()
            assert provider.found() == []


async def test_a_renewal_comes_after_a_third_of_the_life(tmp_path: Path) -> None:
    """With 15 minutes to live a record is signed anew after 5 minutes ± 10 %, not at every look."""
    clock = Clock()
    async with running(tmp_path, clock) as provider:
        await provider.announce()
        times = [NOW_MS]
        for _ in range(3600):
            clock.advance(1)
            await provider.announcer.tick()
            if (seq := provider.found()[0]) != times[-1]:
                times.append(seq)
        gaps = [(b - a) / 1000 for a, b in pairwise(times)]
        assert len(gaps) >= 10
        assert all(270 <= gap <= 335 for gap in gaps)  # ± 10 %, and up to 5 s until the next look


async def test_after_a_long_stop_announcements_are_there_before_anyone_asks(tmp_path: Path) -> None:
    """A provider that was down for longer than the TTL renews at start; nobody sees an expiry."""
    clock = Clock()
    async with running(tmp_path, clock) as before:
        await before.announce()
    clock.advance(100_000)
    async with running(tmp_path, clock) as after:
        assert after.found() == [clock.now_ms]


@pytest.mark.parametrize("jump", [86_400, -86_400])
async def test_a_clock_that_jumps_by_a_day_costs_no_announcement(tmp_path: Path, jump: int) -> None:
    """Forward or back, the announcement is signed anew by the new clock at the next look, with a higher sequence."""
    clock = Clock()
    async with running(tmp_path, clock) as provider:
        await provider.announce()
        (before,) = provider.found()
        clock.advance(jump)
        await provider.announcer.tick()
        (after,) = provider.catalogue.discover("web", ALL, limit=100)
        assert after.record.issued_ms == clock.now_ms
        assert after.record.seq > before
        clock.advance(1)
        await provider.announcer.tick()
        assert provider.found() == [after.record.seq], "and not again and again"


async def test_a_withdrawal_outlives_a_restart(tmp_path: Path) -> None:
    """What was withdrawn stays so over a restart, and a packet of before, handed back, does not bring it back."""
    clock = Clock()
    async with running(tmp_path, clock) as before:
        held = await before.announce()
        await before.announcer.withdraw("web")
    async with running(tmp_path, clock) as after:
        assert after.found() == []
        assert after.announcer.receive(held.record.packet, key=None, source="x")[0] is Verdict.STALE
        with pytest.raises(NotFound):
            await after.announcer.withdraw("web")
        await after.announcer.withdraw("web", allow_missing=True)


async def test_a_tombstone_outlives_every_record_it_supersedes(tmp_path: Path) -> None:
    """A short announcement after a long one does not shorten the tombstone: the long one could be replayed."""
    clock = Clock()
    async with running(tmp_path, clock) as provider:
        long = await provider.announce(ttl_ms=TTL_MAX_MS)
        await provider.announce(ttl_ms=30_000)
        await provider.announcer.withdraw("web")
        (tombstone,) = provider.catalogue.to_hand_on(long.record.key)
        assert tombstone.tombstone
        assert tombstone.expires_ms >= long.record.expires_ms


async def test_what_has_ended_is_forgotten_on_disk_too(tmp_path: Path) -> None:
    """Once nothing of a withdrawn manifest can be replayed, nothing of it is kept."""
    clock = Clock()
    async with running(tmp_path, clock) as provider:
        await provider.announce()
        await provider.announcer.withdraw("web")
        assert len(provider.journal.rows()) == 1
        clock.advance(1_000)
        await provider.announcer.tick()
        await provider.announcer.flush()
        assert provider.journal.rows() == []
        assert provider.store.count == 0


async def test_forgetting_what_ended_does_not_forget_what_is_announced_anew(tmp_path: Path) -> None:
    """A manifest announced again in the moment in which its tombstone is dropped is there after a restart."""
    clock = Clock()
    async with running(tmp_path, clock) as before:
        await before.announce()
        await before.announcer.withdraw("web")
        clock.advance(1_000)
        before.catalogue.expire()
        await asyncio.gather(before.announce(), before.announcer.flush())
    async with running(tmp_path, clock) as after:
        assert after.found() == [clock.now_ms]


async def test_a_sequence_is_never_used_again(tmp_path: Path) -> None:
    """Even when all records are forgotten and the clock went back, the next sequence is greater than every earlier."""
    clock = Clock()
    async with running(tmp_path, clock) as before:
        first = await before.announce()
        await before.announcer.withdraw("web")
        clock.advance(1_000)
        await before.announcer.tick()
    clock.advance(-5_000)
    async with running(tmp_path, clock) as after:
        assert after.store.count == 0
        assert (await after.announce()).record.seq > first.record.seq + 1


async def test_the_same_request_twice_changes_nothing(tmp_path: Path) -> None:
    """A repeat with the same request id and content keeps sequence and expiry, over a restart too; others renew."""
    clock = Clock()
    async with running(tmp_path, clock) as before:
        first = await before.announce(request_id="r1")
        clock.advance(10)
        assert (await before.announce(request_id="r1")).record == first.record
    async with running(tmp_path, clock) as after:
        assert (await after.announce(request_id="r1")).record == first.record
        changed = await after.announce(request_id="r1", metadata={**METADATA, "zone": "eu"})
        assert changed.record.seq > first.record.seq
        assert (await after.announce()).record.seq > changed.record.seq


async def test_a_lease_is_not_renewed(tmp_path: Path) -> None:
    """What its caller renews lapses without the caller."""
    clock = Clock()
    async with running(tmp_path, clock) as provider:
        await provider.announce(KEY.node_id, kind=Kind.NODE, kept=False, ttl_ms=30_000)
        assert len(provider.catalogue.discover_nodes(ALL, limit=10)) == 1
        clock.advance(30)
        await provider.announcer.tick()
        assert provider.catalogue.discover_nodes(ALL, limit=10) == []


async def test_a_node_announces_only_so_much(tmp_path: Path) -> None:
    """Beyond its limit an announcement is RESOURCE_EXHAUSTED; a renewal is not."""
    async with running(tmp_path, Clock(), own_max=1) as provider:
        await provider.announce("web")
        await provider.announce("web")
        with pytest.raises(ResourceExhausted) as raised:
            await provider.announce("db")
        assert raised.value.reason == "STORE_FULL"


async def test_a_refused_write_is_neither_acknowledged_nor_visible(tmp_path: Path) -> None:
    """When the disk refuses, the caller is told, nothing is visible, and a withdrawal leaves the announcement."""
    async with running(tmp_path, Clock()) as provider:
        await provider.announce("web")
        locker = sqlite3.connect(tmp_path / "provider.db")
        provider.journal._connection.execute("PRAGMA busy_timeout = 0")
        locker.execute("BEGIN EXCLUSIVE")
        for attempt in (provider.announce("db"), provider.announcer.withdraw("web")):
            with pytest.raises(Unavailable) as raised:
                await attempt
            assert raised.value.reason == "STORE_ERROR"
        locker.rollback()
        locker.close()
        assert provider.found("db") == []
        assert len(provider.found("web")) == 1
        await provider.announcer.withdraw("web")
        assert provider.found("web") == []


async def test_a_database_that_is_taken_away_is_said(tmp_path: Path) -> None:
    """When the file is removed under a running provider, announcements are refused instead of lost."""
    async with running(tmp_path, Clock()) as provider:
        await provider.announce("web")
        (tmp_path / "provider.db").rename(tmp_path / "away")
        with pytest.raises(DataLoss) as raised:
            await provider.announce("db")
        assert raised.value.reason == "DATABASE_GONE"
        assert provider.found("db") == []
        (tmp_path / "away").rename(tmp_path / "provider.db")
        await provider.announce("db")


async def test_a_caller_that_goes_away_does_not_tear_disk_and_memory_apart(tmp_path: Path) -> None:
    """A cancelled announcement is both durable and visible, or neither."""
    async with running(tmp_path, Clock()) as provider:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(provider.announce("web"))
            group.create_task(_cancel_soon(task))
        await provider.announce("db")  # commits end in order, so the first one has ended
        durable = {row.key for row in provider.journal.rows()}
        visible = {h.record.key for h in provider.catalogue.providers(ALL)}
        assert durable == visible


async def test_others_records_survive_a_restart(tmp_path: Path) -> None:
    """A record of another node is kept over a restart, and its end is still its own."""
    clock = Clock()
    learned = record(key=OTHER_KEY)
    async with running(tmp_path, clock) as before:
        assert before.announcer.receive(learned.packet, key=learned.key, source="x") == (Verdict.OK, NOW_MS)
    async with running(tmp_path, clock) as after:
        assert after.found() == [NOW_MS]
        clock.advance(900)
        assert after.found() == []


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (record(key=OTHER_KEY, issued_ms=NOW_MS + 60_001), Verdict.SKEW),
        (record(key=OTHER_KEY, issued_ms=NOW_MS - 900_000), Verdict.EXPIRED),
        (record(key=OTHER_KEY, subject="db"), Verdict.BAD),
    ],
    ids=["future", "past", "other key"],
)
async def test_a_record_that_does_not_hold_is_not_taken(tmp_path: Path, packet: object, verdict: Verdict) -> None:
    """A record of the future, of the past, or for another key than it was sent to is refused."""
    async with running(tmp_path, Clock()) as provider:
        bytes_ = packet.packet  # type: ignore[attr-defined]  # a Record
        assert provider.announcer.receive(bytes_, key=record().key, source="x")[0] is verdict
        assert provider.store.count == 0


async def test_own_words_that_come_back_push_the_sequence_on(tmp_path: Path) -> None:
    """A record of ours that we no longer know is not believed, but its sequence is never used again."""
    async with running(tmp_path, Clock()) as provider:
        ghost = record(seq=NOW_MS + 5_000)
        assert provider.announcer.receive(ghost.packet, key=None, source="x")[0] is Verdict.STALE
        assert provider.found() == []
        assert (await provider.announce()).record.seq > NOW_MS + 5_000


async def test_watchers_are_told_why(tmp_path: Path) -> None:
    """Announced, renewed, announced with other facts, withdrawn; a learned one expires."""
    clock = Clock()
    async with running(tmp_path, clock) as provider:
        events = provider.catalogue.watch(resume_token="", match=lambda _: True)
        await anext(events)
        await provider.announce()
        await provider.announce()
        await provider.announce(metadata={**METADATA, "zone": "eu"})
        await provider.announcer.withdraw("web")
        provider.announcer.receive(record(key=OTHER_KEY).packet, key=None, source="x")
        clock.advance(900)
        await provider.announcer.tick()
        seen = [await anext(events) for _ in range(6)]
        await events.aclose()
        assert [str(event.reason) for event in seen] == [
            "ANNOUNCED",
            "RENEWED",
            "ANNOUNCED",
            "WITHDRAWN",
            "ANNOUNCED",
            "EXPIRED",
        ]


async def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    """A database of a newer program is refused with its path and both versions, and left as it is."""
    path = tmp_path / "provider.db"
    Journal.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(FailedPrecondition) as raised:
        Journal.open(path)
    assert raised.value.reason == "SCHEMA_TOO_NEW"
    assert raised.value.metadata == {"path": str(path), "found": "7", "known": "1"}


async def test_a_damaged_database_is_a_clear_error(tmp_path: Path) -> None:
    """A file that is no database ends the start with DATA_LOSS and its path."""
    path = tmp_path / "provider.db"
    path.write_bytes(b"no database at all, but long enough to be read as one" * 100)
    with pytest.raises(DataLoss) as raised:
        Journal.open(path)
    assert raised.value.reason == "DATABASE_CORRUPT"


async def test_a_foreign_key_file_is_refused(tmp_path: Path) -> None:
    """Records of one node and the key of another do not go together."""
    journal = Journal.open(tmp_path / "provider.db")
    journal.claim(KEY.node_id)
    with pytest.raises(FailedPrecondition) as raised:
        journal.claim(OTHER_KEY.node_id)
    assert raised.value.reason == "IDENTITY_MISMATCH"
    journal.close()


async def test_an_announcement_that_is_too_large_leaves_no_trace(tmp_path: Path) -> None:
    """RECORD_TOO_LARGE, and what was announced before still is."""
    async with running(tmp_path, Clock()) as provider:
        held = await provider.announce()
        with pytest.raises(InvalidArgument) as raised:
            await provider.announce(metadata={**METADATA, "note": "x" * 600})
        assert raised.value.reason == "RECORD_TOO_LARGE"
        assert provider.found() == [held.record.seq]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["announce", "withdraw", "pass", "restart"]),
        st.sampled_from(["web", "db"]),
        st.sampled_from([30, 900]),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_announced_is_found_and_withdrawn_is_not_over_any_history(
    steps: list[tuple[str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Over announcements, withdrawals, time and restarts in any order, what is found is what a dict says."""
    asyncio.run(_history(steps, tmp_path_factory.mktemp("history")))


async def _history(steps: list[tuple[str, str, int]], directory: Path) -> None:
    clock, announced, last_seq = Clock(), set[str](), 0
    rest = list(reversed(steps))
    while True:
        async with running(directory, clock) as provider:
            while rest:
                action, subject, seconds = rest.pop()
                if action == "announce":
                    held = await provider.announce(subject, ttl_ms=seconds * 1000)
                    assert held.record.seq > last_seq
                    last_seq = held.record.seq
                    announced.add(subject)
                elif action == "withdraw":
                    await provider.announcer.withdraw(subject, allow_missing=True)
                    announced.discard(subject)
                elif action == "pass":
                    clock.advance(seconds)
                    await provider.announcer.tick()
                else:
                    break
                assert {s for s in ("web", "db") if provider.found(s)} == announced
        if not rest:
            return


async def _cancel_soon(task: asyncio.Task[Holding]) -> None:
    await asyncio.sleep(0)
    task.cancel()
