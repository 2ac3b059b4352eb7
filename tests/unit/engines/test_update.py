"""Plans and updates in place: one decision, nothing destroyed, and the truth about what an interrupted one left."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.engines.admission import DeployOrder
from services.engines.engine import Capability, ChangeAction, Config, WorkloadState
from services.engines.listing import Listing
from services.engines.records import Phase
from services.errors import AlreadyExists, FailedPrecondition, Unavailable
from tests.unit.engines.fakes import OTHER_POD, POD, WORKLOAD, Bench, FakeEngine, bench, unreachable

LISTING = Listing()
ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)
OTHER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=OTHER_POD, allow_replace=True)


def able() -> FakeEngine:
    """An engine that can change everything in place."""
    engine = FakeEngine()
    engine.capabilities.add(Capability.UPDATE_IN_PLACE)
    engine.in_place = True
    return engine


async def test_an_update_in_place_keeps_the_components_and_is_no_drift(tmp_path: Path) -> None:
    """Though the labels are those of the content before, also after a restart, and back again."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        first = (await b.keeper.deploy(ORDER)).workload
        planned = await b.keeper.plan(OTHER)
        assert (planned.action, planned.etag) == (ChangeAction.UPDATE_IN_PLACE, first.etag)
        done = await b.keeper.deploy(OTHER)
        assert done.action is ChangeAction.UPDATE_IN_PLACE
        assert done.workload.components == first.components
        assert done.workload.runtime_digest == done.workload.manifest_digest != first.manifest_digest
        assert (done.workload.generation, done.workload.etag != first.etag) == (2, True)
    async with bench(tmp_path, engine) as b:
        assert (await b.keeper.deploy(OTHER)).action is ChangeAction.NONE
        assert (await b.keeper.plan(OTHER)).changes == ()
        back = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD, allow_replace=True)
        assert (await b.keeper.deploy(back)).action is ChangeAction.UPDATE_IN_PLACE
        got = await b.keeper.get(WORKLOAD)
        assert got.runtime_digest == got.manifest_digest == first.manifest_digest
    assert engine.asked == ["create", "update", "update"]


async def test_a_plan_is_what_the_deploy_then_does(tmp_path: Path) -> None:
    """And it asks the backend to change nothing; it also says REPLACE where a deploy would need leave for it."""
    engine = FakeEngine()
    without_leave = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=OTHER_POD)
    async with bench(tmp_path, engine) as b:
        assert [c.target for c in (await b.keeper.plan(ORDER)).changes] == ["pod/web"]
        assert engine.asked == []
        await b.keeper.deploy(ORDER)
        planned = await b.keeper.plan(without_leave)
        assert planned.action is ChangeAction.REPLACE
        assert [(c.target, c.field_path, c.old_value, c.new_value, c.forces, c.action) for c in planned.changes] == [
            ("pod/web/container/main", "image", "example:1", "example:2", "replace", ChangeAction.REPLACE)
        ]
        with pytest.raises(AlreadyExists):
            await b.keeper.deploy(without_leave)
        assert engine.asked == ["create"]
        assert (await b.keeper.deploy(OTHER)).action is planned.action


async def test_a_plan_over_what_nothing_is_recorded_of(tmp_path: Path) -> None:
    """REPLACE of the whole: there is nothing to compare with."""
    engine = FakeEngine()
    async with bench(tmp_path / "a", engine) as b:
        await b.keeper.deploy(ORDER)
    async with bench(tmp_path / "b", engine) as b:
        planned = await b.keeper.plan(OTHER)
        assert (planned.action, planned.etag) == (ChangeAction.REPLACE, "")
        assert [(c.target, c.forces) for c in planned.changes] == [(f"workload/{WORKLOAD}", "replace")]
        assert (await b.keeper.plan(ORDER)).action is ChangeAction.NONE


async def test_an_update_that_was_taken_back_never_was(tmp_path: Path) -> None:
    """The content before counts again, and what runs is RUNNING."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        first = (await b.keeper.deploy(ORDER)).workload
        engine.failures["update"] = FailedPrecondition("taken", reason="PORT_IN_USE")
        with pytest.raises(FailedPrecondition) as caught:
            await b.keeper.deploy(OTHER)
        assert "leftovers" not in caught.value.metadata
        got = await b.keeper.get(WORKLOAD)
        assert (got.state, got.etag, got.reconciling) == (WorkloadState.RUNNING, first.etag, False)
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.NONE


@pytest.mark.parametrize("leftovers", [True, False])
async def test_an_update_that_was_cut_is_finished_by_the_next_deploy(tmp_path: Path, leftovers: bool) -> None:
    """Until then the state says so; other content that can be reached in place needs no replacing either."""
    engine = able()
    error = FailedPrecondition("half", reason="PORT_IN_USE", metadata={"leftovers": "true"})
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        engine.failures["update"] = error if leftovers else unreachable()
        with pytest.raises((FailedPrecondition, Unavailable)) as caught:
            await b.keeper.deploy(OTHER)
        assert caught.value.metadata["leftovers"] == "true"
    engine.failures.clear()
    async with bench(tmp_path, engine) as b:
        got = await b.keeper.get(WORKLOAD)
        assert (got.state, got.reconciling) == (WorkloadState.DEGRADED, True)
        assert "interrupted" in got.state_message
        assert phase(b) is Phase.UPDATING
        planned = await b.keeper.plan(OTHER)
        assert (planned.action, [c.forces for c in planned.changes]) == (ChangeAction.UPDATE_IN_PLACE, [""])
        done = await b.keeper.deploy(OTHER)
        assert (done.action, done.workload.state) == (ChangeAction.UPDATE_IN_PLACE, WorkloadState.RUNNING)
    assert "destroy" not in engine.asked


async def test_drift_is_not_updated_but_replaced(tmp_path: Path) -> None:
    """An update trusts what is there to be what was recorded."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.deploy(OTHER)
        foreign = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD.replace("example:1", "example:9"))
        async with bench(tmp_path / "other", FakeEngine()) as other:
            await other.keeper.deploy(foreign)
            engine.objects[WORKLOAD] = other.engine.objects[WORKLOAD]
        got = await b.keeper.get(WORKLOAD)
        conditions = {condition.type: condition for condition in got.conditions}
        assert conditions["ConfigMatches"].reason == "Drifted"
        assert (await b.keeper.plan(ORDER)).action is ChangeAction.REPLACE
        assert (await b.keeper.deploy(OTHER)).action is ChangeAction.CREATE
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.RUNNING


async def test_from_nothing_and_to_nothing_is_an_update_too(tmp_path: Path) -> None:
    """Scaled to zero the backend has nothing of it, and that is right."""
    engine = able()
    none = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD, config=Config(replicas=0), allow_replace=True)
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(none)
        engine.objects.clear()
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.STOPPED
        one = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD, allow_replace=True)
        planned = await b.keeper.plan(one)
        assert [(c.target, c.field_path, c.old_value, c.new_value) for c in planned.changes] == [
            ("config", "replicas", "0", "")
        ]
        assert planned.action is ChangeAction.UPDATE_IN_PLACE


async def test_conditions_keep_the_time_since_when_they_hold(tmp_path: Path) -> None:
    """A new reading changes nothing; a backend that falls silent does, and its return."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        times = []
        for now, failing in ((2000.0, False), (3000.0, True), (4000.0, False)):
            b.clock.now = now
            if failing:
                b.engine.failures["observe"] = unreachable()
            else:
                b.engine.failures.clear()
            await b.keeper.refresh()
            (item,) = [w for w in (await b.keeper.list(LISTING)).workloads if w.workload_id == WORKLOAD]
            reachable = next(c for c in item.conditions if c.type == "BackendReachable")
            times.append((reachable.status.name, reachable.last_transition_time))
        assert times == [("TRUE", 1000.0), ("FALSE", 3000.0), ("TRUE", 4000.0)]


def phase(b: Bench) -> Phase | None:
    """What is recorded."""
    record = b.records.peek(WORKLOAD)
    return record.phase if record else None
