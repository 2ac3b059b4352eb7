"""Every engine that can stop and start does so alike: nothing is recreated, and a stop is kept."""

from __future__ import annotations

import asyncio

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.errors import NotFound
from tests.conformance.conftest import Case
from tests.conformance.test_lifecycle import SECONDS, get, ids, listed, remove, running
from tests.harness.engines import EngineClient
from tests.harness.errors import refusal


async def claims(client: EngineClient, capability: pb.EngineCapability.ValueType) -> None:
    """Skip where the engine does not have it."""
    info = (await client.engine.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS)).info
    if capability not in info.capabilities:
        pytest.skip(f"engine {info.engine} does not claim {pb.EngineCapability.Name(capability)}")


async def stop(client: EngineClient, workload_id: str) -> wpb.Workload:
    """Stop it."""
    return (await client.engine.StopWorkload(pb.StopWorkloadRequest(workload_id=workload_id), timeout=SECONDS)).workload


async def restart(client: EngineClient, workload_id: str) -> wpb.Workload:
    """Restart it."""
    request = pb.RestartWorkloadRequest(workload_id=workload_id)
    return (await client.engine.RestartWorkload(request, timeout=SECONDS)).workload


async def start(client: EngineClient, workload_id: str) -> wpb.Workload:
    """Start it."""
    request = pb.StartWorkloadRequest(workload_id=workload_id)
    return (await client.engine.StartWorkload(request, timeout=SECONDS)).workload


def starts(workload: wpb.Workload) -> list[float]:
    """When its components started."""
    return [component.start_time.ToNanoseconds() for component in workload.components]


async def test_what_is_stopped_stays_so_until_it_is_started(case: Case) -> None:
    """It stays STOPPED over a second stop, a restart of the engine and a repeated deploy; then the same ones run."""
    async with case.serve() as client:
        await claims(client, pb.ENGINE_CAPABILITY_STOP_START)
        deployed = (await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)).workload
        stopped = await stop(client, case.workload_id)
        assert (stopped.state, ids(stopped)) == (wpb.WORKLOAD_STATE_STOPPED, ids(deployed))
        assert {component.state for component in stopped.components} == {wpb.WORKLOAD_STATE_STOPPED}
        assert (await stop(client, case.workload_id)).state == wpb.WORKLOAD_STATE_STOPPED
        assert [w.state for w in await listed(client, case.workload_id)] == [wpb.WORKLOAD_STATE_STOPPED]
    async with case.serve() as client:
        async with asyncio.timeout(SECONDS):  # the backend may take a moment to answer the new engine
            while (state := (await get(client, case.workload_id)).state) == wpb.WORKLOAD_STATE_UNKNOWN:
                await asyncio.sleep(0.1)
        assert state == wpb.WORKLOAD_STATE_STOPPED
        again = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        assert (again.action, again.workload.state) == (tpb.CHANGE_ACTION_NONE, wpb.WORKLOAD_STATE_STOPPED)
        await asyncio.sleep(1.5)  # a poll or two: nothing repairs it
        assert (await get(client, case.workload_id)).state == wpb.WORKLOAD_STATE_STOPPED
        await start(client, case.workload_id)
        await running(client, case.workload_id)
        got = await get(client, case.workload_id)
        assert ids(got) == ids(deployed)
        assert starts(await start(client, case.workload_id)) == starts(got)
        await remove(client, case.workload_id)


async def test_a_stopped_workload_can_be_removed(case: Case) -> None:
    """And is gone."""
    async with case.serve() as client:
        await claims(client, pb.ENGINE_CAPABILITY_STOP_START)
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        await stop(client, case.workload_id)
        assert (await remove(client, case.workload_id)).state == wpb.WORKLOAD_STATE_REMOVED
        assert isinstance(await refusal(get(client, case.workload_id)), NotFound)


async def test_a_restart_keeps_the_components(case: Case) -> None:
    """They only started later."""
    async with case.serve() as client:
        await claims(client, pb.ENGINE_CAPABILITY_RESTART)
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        await running(client, case.workload_id)
        before = await get(client, case.workload_id)
        await restart(client, case.workload_id)
        await running(client, case.workload_id)
        after = await get(client, case.workload_id)
        assert ids(after) == ids(before)
        assert all(new > old for new, old in zip(starts(after), starts(before), strict=True))
        await remove(client, case.workload_id)


async def test_what_is_not_there_cannot_be_stopped(case: Case) -> None:
    """NOT_FOUND for all three."""
    async with case.serve() as client:
        await claims(client, pb.ENGINE_CAPABILITY_STOP_START)
        for verb in (stop, start, restart):
            error = await refusal(verb(client, case.workload_id))
            assert (type(error), error.reason) == (NotFound, "WORKLOAD_NOT_FOUND")


async def test_conditions_say_what_holds(case: Case) -> None:
    """Ready, the backend reachable, the config as asked for, each since a moment and of a generation."""
    async with case.serve() as client:
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        await running(client, case.workload_id)
        conditions = {item.type: item for item in (await get(client, case.workload_id)).conditions}
        assert {name: item.status for name, item in conditions.items()} == dict.fromkeys(
            ("Ready", "BackendReachable", "ConfigMatches"), tpb.Condition.STATUS_TRUE
        )
        assert all(item.HasField("last_transition_time") and item.reason for item in conditions.values())
        assert {item.observed_generation for item in conditions.values()} == {1}
        await remove(client, case.workload_id)
