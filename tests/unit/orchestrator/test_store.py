"""The database: what is awaited is durable, and what is wrong with the file is said by name."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from services.errors import DataLoss, FailedPrecondition, ResourceExhausted
from services.orchestrator import store as db
from services.orchestrator.model import Attempt, Candidate, Decision, Failure, Stage, State, Step, Verdict
from services.orchestrator.store import Announcement, Request, Store
from tests.unit.orchestrator.test_flow import RECORD

FULL = replace(
    RECORD,
    step=Step.FENCE,
    state=State.DEGRADED,
    touched=("podman",),
    decision=Decision(candidates=(Candidate(engine_id="podman", stage=Stage.FORMAT, verdict=Verdict.FAILED),)),
    attempts=(Attempt(engine_id="podman", workload_id="w", start_time=1.5),),
    failure=Failure(code=14, reason="BACKEND_UNREACHABLE", message="é\n", metadata={"a": "b"}),
)


async def test_a_record_comes_back_as_it_went(tmp_path: Path) -> None:
    """Every field survives the database, and the last write wins."""
    async with Store(tmp_path / "x.db") as store:
        await store.commit(db.put_deployment(RECORD))
        await store.commit(
            db.put_deployment(FULL), db.put_announcement(Announcement(deployment_id="web", wanted=True, done=False))
        )
    async with Store(tmp_path / "x.db") as store:
        assert store.deployments() == [FULL]
        assert store.announcements() == [Announcement(deployment_id="web", wanted=True, done=False)]


async def test_writes_that_meet_are_committed_together_and_all_answered(tmp_path: Path) -> None:
    """A thousand writes at once are all there afterwards."""
    async with Store(tmp_path / "x.db") as store:
        records = [replace(RECORD, deployment_id=f"d{number}") for number in range(1000)]
        await asyncio.gather(*(store.commit(db.put_deployment(record)) for record in records))
        assert len(store.deployments()) == 1000


async def test_one_bad_write_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    """The batch is taken apart when it fails."""
    async with Store(tmp_path / "x.db") as store:
        bad = store.commit(("INSERT INTO nowhere VALUES (1)", ()))
        answers = await asyncio.gather(store.commit(db.put_deployment(RECORD)), bad, return_exceptions=True)
        assert answers[0] is None
        assert isinstance(answers[1], Exception)
        assert store.deployments() == [RECORD]


async def test_a_newer_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    """A database of a later release is not touched."""
    async with Store(tmp_path / "x.db"):
        pass
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FailedPrecondition, match="schema version 99"):
        async with Store(tmp_path / "x.db"):
            pass


async def test_a_damaged_file_is_data_loss(tmp_path: Path) -> None:
    """What is no database is said to be none, and left as it is."""
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database, but long enough to be read as the header of one" * 4)
    before = path.read_bytes()
    with pytest.raises(DataLoss, match="damaged"):
        async with Store(path):
            pass
    assert path.read_bytes() == before


V1 = """
CREATE TABLE deployments (deployment_id TEXT PRIMARY KEY, gone INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE revisions (deployment_id TEXT NOT NULL, revision INTEGER NOT NULL, outcome INTEGER NOT NULL,
                        engine TEXT NOT NULL, time REAL NOT NULL, wish BLOB NOT NULL,
                        PRIMARY KEY (deployment_id, revision)) STRICT, WITHOUT ROWID;
CREATE TABLE announcements (deployment_id TEXT PRIMARY KEY, wanted INTEGER NOT NULL, done INTEGER NOT NULL) STRICT;
CREATE TABLE requests (request_id TEXT PRIMARY KEY, deployment_id TEXT NOT NULL, digest TEXT NOT NULL,
                       time REAL NOT NULL) STRICT;
CREATE TABLE events (sequence INTEGER PRIMARY KEY, deployment_id TEXT NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX events_of ON events (deployment_id, sequence);
PRAGMA user_version = 1;
"""
"""The first schema, as it was released: never changed."""

V1_WISH = (
    '{"manifest":"kind: Pod\\n","format":1,"kinds":["Pod"],"canonical_digest":"sha256:ab","config":{},"annotations":{}}'
)
V1_BODY = (
    '{"deployment_id":"web","workload_id":"beemesh-web-12345678","wish":' + V1_WISH + ',"state":3,"step":"REST",'
    '"engine_id":"podman","touched":["podman"],"create_time":1.0,"update_time":2.0}'
)


async def test_a_database_of_the_first_release_is_read(tmp_path: Path) -> None:
    """A file that the first schema was written into by hand is brought forward, and all that it holds is there."""
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as first:
        first.executescript(V1)
        first.execute("INSERT INTO deployments VALUES ('web', 0, ?)", (V1_BODY.encode(),))
        first.execute("INSERT INTO revisions VALUES ('web', 1, 3, 'podman', 1.0, ?)", (V1_WISH.encode(),))
        first.execute("INSERT INTO announcements VALUES ('web', 1, 1)")
        first.execute("INSERT INTO requests VALUES ('r', 'web', 'sha256:ab', 1.0)")
        first.execute("INSERT INTO events VALUES (5, 'web', x'7b7d')")
    async with Store(tmp_path / "x.db") as store:
        (web,) = store.deployments()
        assert (web.state, web.step, web.touched, web.wish.manifest) == (
            State.ACTIVE,
            Step.REST,
            ("podman",),
            "kind: Pod\n",
        )
        assert [item.wish for item in store.revisions("web")] == [web.wish]
        assert store.announcements() == [Announcement(deployment_id="web", wanted=True, done=True)]
        assert [item.request_id for item in store.requests()] == ["r"]
        assert store.last_event() == 5


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_database_that_is_taken_away_is_not_written_into_the_void(tmp_path: Path, replaced: bool) -> None:
    """When the file is removed or replaced under a running service, writes are refused and no new file is made."""
    path = tmp_path / "x.db"
    async with Store(path) as store:
        await store.commit(db.put_deployment(RECORD))
        path.rename(tmp_path / "away.db")
        if replaced:
            path.write_bytes(b"")
        for attempt in (
            db.put_deployment(FULL),
            db.put_announcement(Announcement(deployment_id="a", wanted=True, done=False)),
        ):
            with pytest.raises(DataLoss, match="removed or replaced") as caught:
                await store.commit(attempt)
            assert caught.value.reason == "DATABASE_GONE"
        with pytest.raises(DataLoss, match="removed or replaced"):
            store.deployments()
    assert path.exists() is replaced


async def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    """A body that cannot be read names its deployment."""
    async with Store(tmp_path / "x.db") as store:
        await store.commit(("INSERT INTO deployments VALUES ('web', 0, ?)", (b"{}",)))
        with pytest.raises(DataLoss, match="'web'"):
            store.deployments()


async def test_a_full_disk_is_resource_exhausted_and_heals(tmp_path: Path) -> None:
    """A write that does not fit fails cleanly; when there is room again the next one succeeds."""
    async with Store(tmp_path / "x.db") as store:
        await store.commit(("PRAGMA max_page_count = 12", ()))
        big = replace(RECORD, message="x" * 200_000)
        with pytest.raises(ResourceExhausted, match="disk is full"):
            await store.commit(db.put_deployment(big))
        assert store.deployments() == []
        await store.commit(("PRAGMA max_page_count = 100000", ()))
        await store.commit(db.put_deployment(big))
        assert store.deployments() == [big]


async def test_only_the_newest_request_ids_are_kept(tmp_path: Path) -> None:
    """The table of request ids is bounded, and those that came last stay, even if the wall clock ran backwards."""
    async with Store(tmp_path / "x.db") as store:
        for number in range(5):
            item = Request(request_id=f"r{number}", deployment_id="web", digest="d", time=float(-number))
            await store.commit(*db.put_request(item, keep=3))
        assert sorted(item.request_id for item in store.requests()) == ["r2", "r3", "r4"]


async def test_a_newer_wish_survives_the_clean_up_of_an_older_one(tmp_path: Path) -> None:
    """Dropping a done withdrawal leaves a wish to announce alone."""
    async with Store(tmp_path / "x.db") as store:
        wish = Announcement(deployment_id="web", wanted=True, done=False)
        await store.commit(db.put_announcement(wish), db.drop_announcement("web"))
        assert store.announcements() == [wish]
        await store.commit(db.put_announcement(replace(wish, wanted=False)), db.drop_announcement("web"))
        assert store.announcements() == []
