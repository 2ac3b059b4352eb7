"""Reading: live where the backend answers, UNKNOWN where it does not, and never gone by guess."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from services.engines.admission import DeployOrder
from services.engines.deployer import RemoveOrder
from services.engines.engine import Component, LogQuery, Observation, WorkloadState
from services.engines.inside import LogEnd
from services.engines.keeper import Keeper
from services.engines.listing import Listing
from services.engines.view import Workload
from services.errors import InvalidArgument, NotFound, OutOfRange, Unavailable, Unimplemented
from services.rpc.watch import Event, EventType
from tests.unit.engines.fakes import POD, WORKLOAD, FakeEngine, bench, unreachable

ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)
OTHER = replace(ORDER, workload_id="beemesh-api-12345678", manifest_id="api")
S = WorkloadState
T = TypeVar("T")


async def states(keeper: Keeper, listing: Listing | None = None) -> dict[str, WorkloadState]:
    """What a list shows."""
    return {w.workload_id: w.state for w in (await keeper.list(listing or Listing())).workloads}


async def test_get_shows_the_live_state(tmp_path: Path) -> None:
    """A component that failed a moment ago is FAILED, before any poll."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        fail(b.engine)
        assert (await b.keeper.get(WORKLOAD)).state is S.FAILED
        assert await states(b.keeper) == {WORKLOAD: S.FAILED}


@pytest.mark.parametrize("how", ["known", "silent", "down"])
async def test_a_backend_that_does_not_answer_makes_unknown(tmp_path: Path, how: str) -> None:
    """Get and list show UNKNOWN with the components last seen; when it answers again they show the truth."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.why_unreachable = "the probe timed out" if how == "known" else ""
        b.engine.silent = how == "silent"
        b.engine.failures = {"observe": unreachable()} if how == "down" else {}
        await b.keeper.refresh()
        got = await b.keeper.get(WORKLOAD)
        assert (got.state, [c.component_id for c in got.components]) == (S.UNKNOWN, ["c1"])
        assert got.state_message
        assert await states(b.keeper) == {WORKLOAD: S.UNKNOWN}
        b.why_unreachable, b.engine.silent, b.engine.failures = "", False, {}
        await b.keeper.refresh()
        assert (await b.keeper.get(WORKLOAD)).state is S.RUNNING
        assert await states(b.keeper) == {WORKLOAD: S.RUNNING}


async def test_a_known_outage_is_told_at_once(tmp_path: Path) -> None:
    """When the monitor knows it, nothing waits: the view changes in the same moment."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.engine.silent, b.why_unreachable = True, "the probe timed out"
        b.keeper.backend_changed()
        assert await states(b.keeper) == {WORKLOAD: S.UNKNOWN}


async def test_a_restart_while_the_backend_is_down_forgets_nothing(tmp_path: Path) -> None:
    """What is recorded is listed as UNKNOWN; what nothing is known of is UNAVAILABLE, not NOT_FOUND."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
    b.engine.silent = True
    async with bench(tmp_path, b.engine) as b:
        assert await states(b.keeper) == {WORKLOAD: S.UNKNOWN}
        assert (await b.keeper.get(WORKLOAD)).state is S.UNKNOWN
        assert (await b.keeper.inside.record(WORKLOAD)).manifest == POD
        with pytest.raises(Unavailable):
            await b.keeper.get("beemesh-other-1")
        with pytest.raises(Unavailable):
            await b.keeper.inside.record("beemesh-other-1")


async def test_the_time_of_the_last_reading_shows(tmp_path: Path) -> None:
    """A list says when the backend was last read; an outage does not make it look fresh."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.clock.now = 2000.0
        await b.keeper.refresh()
        b.clock.now, b.engine.silent = 3000.0, True
        await b.keeper.refresh()
        (listed,) = (await b.keeper.list(Listing())).workloads
        assert (listed.state, listed.observe_time) == (S.UNKNOWN, 2000.0)


async def test_what_the_backend_lost_is_removed_from_list_and_disk(tmp_path: Path) -> None:
    """The backend says that it is gone: watchers see REMOVED with the reason, and the record goes."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        token = (await b.keeper.list(Listing())).resume_token
        b.engine.objects.clear()
        await b.keeper.refresh()
        assert await states(b.keeper) == {}
        assert list((tmp_path / "workloads").iterdir()) == []
        event = await first(b.keeper.watch(resume_token=token))
        assert (event.type, event.reason) == (EventType.REMOVED, "GONE")
        assert event.item is not None
        assert event.item.state is S.REMOVED


async def test_get_of_what_the_backend_lost_is_not_found(tmp_path: Path) -> None:
    """And the record goes with it."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.engine.objects.clear()
        with pytest.raises(NotFound):
            await b.keeper.get(WORKLOAD)
        assert b.records.all() == []


async def test_a_deploy_under_way_is_never_taken_for_lost(tmp_path: Path) -> None:
    """While it is created the backend has nothing of it yet: PENDING in get and list, and it stays."""
    async with bench(tmp_path) as b:
        b.engine.gate.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(b.keeper.deploy(ORDER))
            await b.engine.created.wait()
            await b.keeper.refresh()
            assert (await b.keeper.get(WORKLOAD)).state is S.PENDING
            assert await states(b.keeper) == {WORKLOAD: S.PENDING}
            b.engine.gate.set()
        assert await states(b.keeper) == {WORKLOAD: S.RUNNING}


async def test_a_reading_that_is_older_than_an_operation_changes_nothing(tmp_path: Path) -> None:
    """A workload removed while the backend was being read does not come back as a ghost."""

    class Slow(FakeEngine):
        def __init__(self) -> None:
            super().__init__()
            self.reading, self.go_on = asyncio.Event(), asyncio.Event()
            self.go_on.set()

        async def observe(self) -> dict[str, object]:  # type: ignore[override]  # the same, seen loosely
            found = dict(self.objects)
            self.reading.set()
            await self.go_on.wait()
            return found  # type: ignore[return-value]  # as above

    engine = Slow()
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.refresh()
        engine.go_on.clear()
        engine.reading.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(b.keeper.refresh())
            await engine.reading.wait()
            await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD))
            engine.go_on.set()
        assert await states(b.keeper) == {}


async def test_what_get_has_seen_is_told_to_watchers_while_another_workload_is_deployed(tmp_path: Path) -> None:
    """An operation on one workload does not keep back what was seen of another."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        fail(b.engine)
        reading, go_on = asyncio.Event(), asyncio.Event()
        observe_one = b.engine.observe_one

        async def slow(workload_id: str) -> Observation | None:
            reading.set()
            await go_on.wait()
            return await observe_one(workload_id)

        b.engine.observe_one = slow  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            group.create_task(b.keeper.get(WORKLOAD))
            await reading.wait()
            deploying = group.create_task(b.keeper.deploy(OTHER))
            await asyncio.sleep(0)
            go_on.set()
            await deploying
        assert (await states(b.keeper))[WORKLOAD] is S.FAILED


async def test_a_hinted_reading_gives_way_to_a_deploy(tmp_path: Path) -> None:
    """While something is deployed, hints do not have the backend read beside it: the deploy tells its end itself."""

    class Counting(FakeEngine):
        readings = 0

        async def observe(self) -> dict[str, object]:  # type: ignore[override]  # the same, seen loosely
            self.readings += 1
            return dict(self.objects)

    engine = Counting()
    async with bench(tmp_path, engine) as b:
        engine.gate.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(b.keeper.deploy(ORDER))
            await engine.created.wait()
            before = engine.readings
            for _ in range(50):
                b.keeper.backend_changed()
                await asyncio.sleep(0)
            assert engine.readings == before
            engine.gate.set()
        assert await states(b.keeper) == {WORKLOAD: S.RUNNING}
        async with asyncio.timeout(5):
            while engine.readings == before:
                await asyncio.sleep(0)


async def test_lists_are_filtered_and_paged(tmp_path: Path) -> None:
    """By state, manifest and id, in the filter or in fields of their own."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.deploy(OTHER)
        fail(b.engine)
        await b.keeper.refresh()
        both = {WORKLOAD: S.FAILED, OTHER.workload_id: S.RUNNING}
        assert await states(b.keeper) == both
        for listing in (
            Listing(filter="state=FAILED"),
            Listing(filter="state=WORKLOAD_STATE_FAILED"),
            Listing(filter="manifest_id=web"),
            Listing(filter=f"workload_id={WORKLOAD} AND state=failed"),
            Listing(manifest_id="web"),
            Listing(states=frozenset({S.FAILED})),
        ):
            assert await states(b.keeper, listing) == {WORKLOAD: S.FAILED}
        page = await b.keeper.list(Listing(page_size=1))
        rest = await b.keeper.list(Listing(page_size=1, page_token=page.next_page_token))
        assert {w.workload_id for w in [*page.workloads, *rest.workloads]} == set(both)
        assert rest.next_page_token == ""


@pytest.mark.parametrize(
    "listing",
    [Listing(filter="colour=red"), Listing(filter="state=GREAT"), Listing(page_size=-1), Listing(page_token="?")],
)
async def test_a_bad_list_request_is_an_invalid_argument(tmp_path: Path, listing: Listing) -> None:
    """Unknown fields, states, tokens and sizes."""
    async with bench(tmp_path) as b:
        with pytest.raises(InvalidArgument):
            await b.keeper.list(listing)


async def test_a_watch_tells_the_story_of_a_workload(tmp_path: Path) -> None:
    """From PENDING over RUNNING to REMOVED, with reasons; readings that find no change are no events."""
    async with bench(tmp_path) as b:
        token = (await b.keeper.list(Listing())).resume_token
        await b.keeper.deploy(ORDER)
        await b.keeper.refresh()
        await b.keeper.refresh()
        await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD))
        events = await take(b.keeper.watch(resume_token=token), 4)
        assert [(e.type, e.item.state, e.reason) for e in events if e.item] == [
            (EventType.ADDED, S.PENDING, ""),
            (EventType.UPDATED, S.RUNNING, "CREATE"),
            (EventType.UPDATED, S.STOPPING, "REMOVING"),
            (EventType.REMOVED, S.REMOVED, "REMOVED"),
        ]


async def test_a_watch_of_one_workload_hears_of_no_other(tmp_path: Path) -> None:
    """Its snapshot has one item."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.deploy(OTHER)
        events = await take(b.keeper.watch(workload_id=WORKLOAD), 2)
        assert [e.type for e in events] == [EventType.SNAPSHOT, EventType.SYNCED]
        assert events[0].item is not None
        assert events[0].item.workload_id == WORKLOAD


async def test_a_token_of_another_run_is_out_of_range(tmp_path: Path) -> None:
    """Who resumes from before a restart must start anew."""
    async with bench(tmp_path) as b:
        with pytest.raises(OutOfRange):
            await first(b.keeper.watch(resume_token="earlier:1"))


async def test_logs_end_with_a_reason(tmp_path: Path) -> None:
    """The lines, then EOF; what is not there is NOT_FOUND, what the engine does not have is UNIMPLEMENTED."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        batches = [batch async for batch in b.keeper.inside.logs(WORKLOAD, LogQuery())]
        assert not isinstance(batches[0], LogEnd)
        assert [line.text for line in batches[0]] == ["hello"]
        assert batches[1:] == [LogEnd(reason="EOF")]
        with pytest.raises(NotFound):
            await first(b.keeper.inside.logs("beemesh-other-1", LogQuery()))
        with pytest.raises(Unimplemented) as caught:
            await first(b.keeper.inside.logs(WORKLOAD, LogQuery(follow=True)))
        assert caught.value.reason == "UNSUPPORTED_VERB"


async def test_logs_of_a_pending_workload_can_wait_for_it(tmp_path: Path) -> None:
    """Without wait_start it is FAILED_PRECONDITION; with it the lines come when it has started."""
    async with bench(tmp_path) as b:
        b.engine.gate.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(b.keeper.deploy(ORDER))
            await b.engine.created.wait()
            with pytest.raises(Exception, match="has not started yet"):
                await first(b.keeper.inside.logs(WORKLOAD, LogQuery()))
            waiting = group.create_task(first(b.keeper.inside.logs(WORKLOAD, LogQuery(), wait_start=True)))
            b.engine.gate.set()
        assert not isinstance(waiting.result(), LogEnd)


def fail(engine: FakeEngine) -> None:
    """Let the workload's component fail."""
    dead = Component(component_id="c1", display_name="main", state=S.FAILED)
    engine.objects[WORKLOAD] = replace(engine.objects[WORKLOAD], components=(dead,))


async def take(events: AsyncIterator[Event[Workload]], count: int) -> list[Event[Workload]]:
    """The next events."""
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


async def first(stream: AsyncIterator[T]) -> T:
    """The next item."""
    async with asyncio.timeout(5):
        return await anext(stream)
