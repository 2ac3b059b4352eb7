"""Stops, starts and restarts: kept in the record before the backend is asked, and finished when they were cut."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.engines.admission import DeployOrder
from services.engines.engine import Capability, ChangeAction, Config, WorkloadState
from services.engines.records import Halt, Phase
from services.errors import Aborted, FailedPrecondition, NotFound, Unavailable, Unimplemented
from tests.unit.engines.fakes import OTHER_POD, POD, WORKLOAD, Bench, FakeEngine, bench, unreachable

ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)
OTHER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=OTHER_POD, allow_replace=True)
HALT = Halt(grace_seconds=3.0)


def able() -> FakeEngine:
    """An engine that can stop and start."""
    engine = FakeEngine()
    engine.capabilities |= {Capability.STOP_START, Capability.RESTART}
    return engine


def phase(b: Bench) -> Phase | None:
    """What is recorded."""
    record = b.records.peek(WORKLOAD)
    return record.phase if record else None


async def state(b: Bench) -> WorkloadState:
    """What a caller sees."""
    return (await b.keeper.get(WORKLOAD)).state


async def test_a_stop_is_kept_over_a_restart_and_a_second_one_does_nothing(tmp_path: Path) -> None:
    """The components are STOPPED, not failed, whatever their processes said."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        stopped = await b.keeper.power.stop(WORKLOAD, HALT)
        assert (stopped.state, stopped.reconciling) == (WorkloadState.STOPPED, False)
        assert [component.state for component in stopped.components] == [WorkloadState.STOPPED]
        await b.keeper.power.stop(WORKLOAD, HALT)
    async with bench(tmp_path, engine) as b:
        assert await state(b) is WorkloadState.STOPPED
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.NONE
        assert await state(b) is WorkloadState.STOPPED
        started = await b.keeper.power.start(WORKLOAD)
        assert started.state is WorkloadState.RUNNING
        assert (await b.keeper.power.start(WORKLOAD)).state is WorkloadState.RUNNING
    assert engine.asked == ["create", "stop", "start"]


async def test_a_stop_that_failed_goes_on_by_itself(tmp_path: Path) -> None:
    """The caller is told that it was accepted; the state is STOPPING until the backend answers."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        engine.failures["stop"] = unreachable()
        with pytest.raises(Unavailable) as caught:
            await b.keeper.power.stop(WORKLOAD, HALT)
        assert caught.value.metadata["stop"] == "accepted"
        assert (await state(b), phase(b)) == (WorkloadState.STOPPING, Phase.STOPPING)
    engine.failures.clear()
    async with bench(tmp_path, engine) as b:
        async with asyncio.timeout(5):
            while phase(b) is not Phase.STOPPED:
                await asyncio.sleep(0)
        assert await state(b) is WorkloadState.STOPPED


async def test_a_start_that_is_refused_is_given_up_and_one_without_an_answer_is_not(tmp_path: Path) -> None:
    """After a refusal it is as it was, but no longer to be stopped; else it is tried again."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.power.stop(WORKLOAD, HALT)
        engine.failures["start"] = FailedPrecondition("taken", reason="PORT_IN_USE")
        with pytest.raises(FailedPrecondition):
            await b.keeper.power.start(WORKLOAD)
        assert (await state(b), phase(b)) == (WorkloadState.FAILED, Phase.DEPLOYED)
        engine.failures["start"] = unreachable()
        with pytest.raises(Unavailable):
            await b.keeper.power.restart(WORKLOAD, grace_seconds=None)
        assert phase(b) is Phase.STARTING
        engine.failures.clear()
        b.keeper.power.resume()
        async with asyncio.timeout(5):
            while phase(b) is not Phase.DEPLOYED:
                await asyncio.sleep(0)
        assert await state(b) is WorkloadState.RUNNING


async def test_a_restart_also_starts_what_was_stopped(tmp_path: Path) -> None:
    """It is asked for to run."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.power.stop(WORKLOAD, HALT)
        assert (await b.keeper.power.restart(WORKLOAD, grace_seconds=1.0)).state is WorkloadState.RUNNING
        assert phase(b) is Phase.DEPLOYED


async def test_two_stops_share_one_and_anything_else_is_aborted(tmp_path: Path) -> None:
    """One operation on a workload at a time."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        engine.gate.clear()
        async with asyncio.TaskGroup() as group:
            stops = [group.create_task(b.keeper.power.stop(WORKLOAD, HALT)) for _ in range(2)]
            while "stop" not in engine.asked:
                await asyncio.sleep(0)
            for other in (b.keeper.power.start(WORKLOAD), b.keeper.power.restart(WORKLOAD, grace_seconds=None)):
                with pytest.raises(Aborted) as caught:
                    await other
                assert caught.value.reason == "OPERATION_IN_PROGRESS"
            with pytest.raises(Aborted):
                await b.keeper.deploy(OTHER)
            engine.gate.set()
        assert {task.result().state for task in stops} == {WorkloadState.STOPPED}
        assert engine.asked.count("stop") == 1


async def test_other_content_replaces_a_stopped_workload_and_it_runs(tmp_path: Path) -> None:
    """Also where the change could have been made in place: what is stopped is not updated."""
    engine = able()
    engine.capabilities.add(Capability.UPDATE_IN_PLACE)
    engine.in_place = True
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.power.stop(WORKLOAD, HALT)
        done = await b.keeper.deploy(OTHER)
        assert (done.action, done.workload.state) == (ChangeAction.REPLACE, WorkloadState.RUNNING)


async def test_what_is_scaled_to_zero_stops_and_starts_without_the_backend(tmp_path: Path) -> None:
    """There is nothing to stop, and the wish is kept."""
    engine = able()
    none = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD, config=Config(replicas=0))
    async with bench(tmp_path, engine) as b:
        await b.keeper.deploy(none)
        engine.objects.clear()
        assert (await b.keeper.power.stop(WORKLOAD, HALT)).state is WorkloadState.STOPPED
        assert phase(b) is Phase.STOPPED
        await b.keeper.power.restart(WORKLOAD, grace_seconds=None)
        assert (await b.keeper.power.start(WORKLOAD)).state is WorkloadState.STOPPED
        assert phase(b) is Phase.DEPLOYED
        assert engine.asked == ["create"]


async def test_what_cannot_be_stopped_says_why(tmp_path: Path) -> None:
    """Nothing there, nothing recorded, an interrupted deploy, an engine without the verb."""
    engine = able()
    async with bench(tmp_path, engine) as b:
        with pytest.raises(NotFound) as absent:
            await b.keeper.power.stop(WORKLOAD, HALT)
        assert absent.value.reason == "WORKLOAD_NOT_FOUND"
        engine.failures |= {"create": unreachable(), "destroy": unreachable()}
        with pytest.raises(Unavailable):
            await b.keeper.deploy(ORDER)
        engine.failures.clear()
        engine.objects[WORKLOAD] = await _observed(tmp_path / "other")
        with pytest.raises(FailedPrecondition) as cut:
            await b.keeper.power.start(WORKLOAD)
        assert cut.value.reason == "DEPLOY_INTERRUPTED"
        await b.records.drop(WORKLOAD)
        with pytest.raises(NotFound) as orphan:
            await b.keeper.power.stop(WORKLOAD, HALT)
        assert orphan.value.reason == "MANIFEST_NOT_KEPT"
        engine.capabilities.clear()
        with pytest.raises(Unimplemented):
            await b.keeper.power.stop(WORKLOAD, HALT)


async def _observed(directory: Path):  # type: ignore[no-untyped-def]  # of the fake's own making
    async with bench(directory) as b:
        await b.keeper.deploy(ORDER)
        return b.engine.objects[WORKLOAD]
