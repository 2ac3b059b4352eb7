"""How tests steer the mock engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import mock_engine_service_pb2 as mpb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb
from google.protobuf.duration_pb2 import Duration

from services.errors import Code, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from tests.harness.engines import EngineClient, mock_engine
from tests.harness.errors import refusal
from tests.harness.processes import short_directory, until_serving

SECONDS = 10
WORKLOAD = "beemesh-web-12345678"
POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - {name: main, image: 'example:1'}\n"
DEPLOY = pb.DeployWorkloadRequest(workload_id=WORKLOAD, manifest_id="web", manifest=tpb.Manifest(content=POD))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for one engine."""
    with short_directory() as directory:
        yield directory


@asynccontextmanager
async def deployed(place: Path) -> AsyncIterator[EngineClient]:
    """A mock engine with one workload."""
    async with mock_engine(place) as client:
        await client.engine.DeployWorkload(DEPLOY, timeout=SECONDS)
        yield client


async def script(client: EngineClient, *faults: mpb.MockFault, health: Any = 0) -> None:
    """Set the script."""
    await client.mock.SetMockBehavior(mpb.SetMockBehaviorRequest(faults=faults, health=health), timeout=SECONDS)


async def state(client: EngineClient) -> str:
    """The workload's state."""
    answer = await client.engine.GetWorkload(pb.GetWorkloadRequest(workload_id=WORKLOAD), timeout=SECONDS)
    return wpb.WorkloadState.Name(answer.workload.state).removeprefix("WORKLOAD_STATE_")


async def act(client: EngineClient, **fields: Any) -> None:
    """Change the workload behind the engine's back."""
    request = mpb.SetMockWorkloadRequest(workload_id=WORKLOAD, **fields)
    await client.mock.SetMockWorkload(request, timeout=SECONDS)


async def test_a_fault_strikes_as_often_as_it_was_told(place: Path) -> None:
    """Code and reason as scripted, before anything is done; then the method works again."""
    fault = mpb.MockFault(
        method="DeployWorkload", grpc_code=Code.FAILED_PRECONDITION, reason="IMAGE_NOT_FOUND", remaining=2
    )
    async with mock_engine(place) as client:
        await script(client, fault)
        for _ in range(2):
            error = await refusal(client.engine.DeployWorkload(DEPLOY, timeout=SECONDS))
            assert (type(error), error.reason) == (FailedPrecondition, "IMAGE_NOT_FOUND")
            listed = await client.engine.ListWorkloads(pb.ListWorkloadsRequest(), timeout=SECONDS)
            assert not listed.workloads
        await client.engine.DeployWorkload(DEPLOY, timeout=SECONDS)


async def test_a_fault_without_a_count_strikes_until_the_script_changes(place: Path) -> None:
    """An empty script ends it."""
    async with deployed(place) as client:
        await script(client, mpb.MockFault(method="GetWorkload", grpc_code=Code.INTERNAL))
        for _ in range(5):
            assert (await refusal(state(client))).reason == "SCRIPTED_FAULT"
        await script(client)
        assert await state(client) == "RUNNING"


async def test_faults_of_one_method_strike_one_after_the_other(place: Path) -> None:
    """In the order in which they were given."""
    async with deployed(place) as client:
        await script(
            client,
            mpb.MockFault(method="GetWorkload", grpc_code=Code.INTERNAL, reason="FIRST", remaining=1),
            mpb.MockFault(method="GetWorkload", grpc_code=Code.INTERNAL, reason="SECOND", remaining=1),
        )
        assert [(await refusal(state(client))).reason for _ in range(2)] == ["FIRST", "SECOND"]
        assert await state(client) == "RUNNING"


async def test_apply_then_fail_does_the_work_and_hides_it(place: Path) -> None:
    """The caller gets the error, the workload runs."""
    fault = mpb.MockFault(
        method="DeployWorkload", grpc_code=Code.UNKNOWN, reason="LOST_ANSWER", remaining=1, apply_then_fail=True
    )
    async with mock_engine(place) as client:
        await script(client, fault)
        assert (await refusal(client.engine.DeployWorkload(DEPLOY, timeout=SECONDS))).reason == "LOST_ANSWER"
        assert await state(client) == "RUNNING"


@pytest.mark.parametrize(("applies", "expected"), [(False, None), (True, "RUNNING")])
async def test_a_delay_outlasts_a_deadline(place: Path, *, applies: bool, expected: str | None) -> None:
    """Before the work nothing is done; with apply_then_fail the work is done and the answer is late."""
    fault = mpb.MockFault(method="DeployWorkload", delay=Duration(seconds=5), apply_then_fail=applies)
    async with mock_engine(place) as client:
        await script(client, fault)
        assert isinstance(await refusal(client.engine.DeployWorkload(DEPLOY, timeout=0.3)), DeadlineExceeded)
        if expected is None:
            assert isinstance(await refusal(state(client)), NotFound)
        else:
            assert await state(client) == expected


async def test_streams_fail_too(place: Path) -> None:
    """At once, or after all that they had to say."""
    logs = pb.StreamWorkloadLogsRequest(workload_id=WORKLOAD)
    async with deployed(place) as client:
        for applies, count in ((False, 0), (True, 2)):
            fault = mpb.MockFault(
                method="StreamWorkloadLogs", grpc_code=Code.UNAVAILABLE, remaining=1, apply_then_fail=applies
            )
            await script(client, fault)
            seen: list[pb.StreamWorkloadLogsResponse] = []
            assert isinstance(
                await refusal(collect(client.engine.StreamWorkloadLogs(logs, timeout=SECONDS), seen)), Unavailable
            )
            assert len(seen) == count


async def collect(stream: Any, into: list[Any]) -> None:
    """Read a stream to its end."""
    async for message in stream:
        into += [message]


async def test_a_sick_backend_makes_workloads_unknown_until_it_heals(place: Path) -> None:
    """Health, gRPC health, get, list, deploy and remove all tell it; readiness stays, and nothing is forgotten."""
    async with deployed(place) as client:
        await script(client, health=pb.ENGINE_HEALTH_STATE_UNHEALTHY)
        health = await client.engine.GetEngineHealth(pb.GetEngineHealthRequest(), timeout=SECONDS)
        assert (health.health.state, health.health.flap_count) == (pb.ENGINE_HEALTH_STATE_UNHEALTHY, 1)
        assert await state(client) == "UNKNOWN"
        listed = await client.engine.ListWorkloads(pb.ListWorkloadsRequest(), timeout=SECONDS)
        assert [(w.state, len(w.components)) for w in listed.workloads] == [(wpb.WORKLOAD_STATE_UNKNOWN, 1)]
        other = pb.DeployWorkloadRequest(workload_id="w", manifest_id="w", manifest=DEPLOY.manifest)
        assert (await refusal(client.engine.DeployWorkload(other, timeout=SECONDS))).reason == "BACKEND_UNREACHABLE"
        with pytest.raises(TimeoutError):
            await until_serving(client.channel, "backend", seconds=0.3)
        await until_serving(client.channel, "readiness", seconds=1)
        await script(client)
        assert await state(client) == "RUNNING"
        await until_serving(client.channel, "backend", seconds=2)


async def test_a_removal_accepted_by_a_sick_backend_happens_when_it_heals(place: Path) -> None:
    """The caller hears UNAVAILABLE and that it was accepted."""
    async with deployed(place) as client:
        await script(client, health=pb.ENGINE_HEALTH_STATE_UNHEALTHY)
        remove = pb.RemoveWorkloadRequest(workload_id=WORKLOAD)
        error = await refusal(client.engine.RemoveWorkload(remove, timeout=SECONDS))
        assert (error.reason, error.metadata["removal"]) == ("BACKEND_UNREACHABLE", "accepted")
        await script(client)
        async with asyncio.timeout(SECONDS):
            while (await client.engine.ListWorkloads(pb.ListWorkloadsRequest(), timeout=SECONDS)).workloads:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": wpb.WORKLOAD_STATE_FAILED}, "FAILED"),
        ({"exit_status": wpb.ExitStatus(exit_code=0)}, "SUCCEEDED"),
        ({"exit_status": wpb.ExitStatus(exit_code=137, oom_killed=True)}, "FAILED"),
        ({"state": wpb.WORKLOAD_STATE_STOPPED}, "STOPPED"),
        ({"state": wpb.WORKLOAD_STATE_STARTING}, "STARTING"),
    ],
)
async def test_a_workload_does_what_it_is_told(place: Path, fields: dict[str, Any], expected: str) -> None:
    """Get and list show it at once, with the exit status and the same component."""
    async with deployed(place) as client:
        before = await client.engine.ListWorkloads(pb.ListWorkloadsRequest(), timeout=SECONDS)
        await act(client, **fields)
        assert await state(client) == expected
        (after,) = (await client.engine.ListWorkloads(pb.ListWorkloadsRequest(), timeout=SECONDS)).workloads
        assert wpb.WorkloadState.Name(after.state) == f"WORKLOAD_STATE_{expected}"
        assert after.components[0].component_id == before.workloads[0].components[0].component_id
        assert after.components[0].exit_status == fields.get("exit_status", wpb.ExitStatus())


async def test_a_workload_can_vanish(place: Path) -> None:
    """State REMOVED: gone behind the engine's back; a watcher hears it with the reason."""
    async with deployed(place) as client:
        watch = client.engine.WatchWorkloads(pb.WatchWorkloadsRequest(skip_snapshot=True), timeout=SECONDS)
        events = aiter(watch)
        assert (await anext(events)).type == tpb.WATCH_EVENT_TYPE_SYNCED
        await act(client, state=wpb.WORKLOAD_STATE_REMOVED)
        event = await anext(events)
        assert (event.type, event.reason) == (tpb.WATCH_EVENT_TYPE_REMOVED, "GONE")
        watch.cancel()
        assert isinstance(await refusal(state(client)), NotFound)


async def test_scripted_lines_reach_who_follows(place: Path) -> None:
    """Lines appended later arrive, and the stream ends with the exit status."""
    async with deployed(place) as client:
        request = pb.StreamWorkloadLogsRequest(workload_id=WORKLOAD, follow=True, tail_lines=0)
        async with asyncio.TaskGroup() as group:
            seen: list[pb.StreamWorkloadLogsResponse] = []
            group.create_task(collect(client.engine.StreamWorkloadLogs(request, timeout=SECONDS), seen))
            await asyncio.sleep(0.2)
            await act(client, log_lines=["one", "two"])
            await act(client, exit_status=wpb.ExitStatus(exit_code=3), log_lines=["three"])
        assert [entry.text for message in seen for entry in message.entries] == ["one", "two", "three"]
        assert (seen[-1].end.reason, seen[-1].end.exit_status.exit_code) == ("WORKLOAD_EXITED", 3)


async def test_a_cursor_resumes_after_its_line(place: Path) -> None:
    """No line twice, none lost."""
    async with deployed(place) as client:
        seen: list[pb.StreamWorkloadLogsResponse] = []
        everything = pb.StreamWorkloadLogsRequest(workload_id=WORKLOAD)
        await collect(client.engine.StreamWorkloadLogs(everything, timeout=SECONDS), seen)
        entries = [entry for message in seen for entry in message.entries]
        rest: list[pb.StreamWorkloadLogsResponse] = []
        resumed = pb.StreamWorkloadLogsRequest(workload_id=WORKLOAD, resume_cursor=entries[3].cursor)
        await collect(client.engine.StreamWorkloadLogs(resumed, timeout=SECONDS), rest)
        assert [e.text for m in rest for e in m.entries] == [e.text for e in entries[4:]]


async def test_every_call_is_listed_in_order(place: Path) -> None:
    """With method, ids and manifest, page by page; failed calls too."""
    async with mock_engine(place) as client:
        await refusal(state(client))
        request = pb.DeployWorkloadRequest(request_id="r-1")
        request.MergeFrom(DEPLOY)
        await client.engine.DeployWorkload(request, timeout=SECONDS)
        await collect(
            client.engine.StreamWorkloadLogs(pb.StreamWorkloadLogsRequest(workload_id=WORKLOAD), timeout=SECONDS), []
        )
        calls: list[mpb.MockCall] = []
        token = ""
        while True:
            page = await client.mock.ListMockCalls(
                mpb.ListMockCallsRequest(page_size=2, page_token=token), timeout=SECONDS
            )
            calls += page.calls
            token = page.next_page_token
            if not token:
                break
        assert [(c.method, c.workload_id, c.request_id) for c in calls] == [
            ("GetWorkload", WORKLOAD, ""),
            ("DeployWorkload", WORKLOAD, "r-1"),
            ("StreamWorkloadLogs", WORKLOAD, ""),
        ]
        assert calls[1].manifest.content == POD


async def test_a_reset_makes_it_new(place: Path) -> None:
    """No workloads, no calls, no faults, healthy; it may be repeated."""
    async with deployed(place) as client:
        await script(
            client,
            mpb.MockFault(method="GetWorkload", grpc_code=Code.INTERNAL),
            health=pb.ENGINE_HEALTH_STATE_UNHEALTHY,
        )
        for _ in range(2):
            await client.mock.ResetMock(mpb.ResetMockRequest(), timeout=SECONDS)
        assert not (await client.mock.ListMockCalls(mpb.ListMockCallsRequest(), timeout=SECONDS)).calls
        assert not (await client.engine.ListWorkloads(pb.ListWorkloadsRequest(), timeout=SECONDS)).workloads
        assert isinstance(await refusal(state(client)), NotFound)


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        (mpb.MockFault(method="Deploy"), "faults[0].method"),
        (mpb.MockFault(method="GetWorkload", grpc_code=99), "faults[0].grpc_code"),
        (mpb.MockFault(method="GetWorkload", remaining=-1), "faults[0].remaining"),
        (mpb.MockFault(method="GetWorkload", delay=Duration(seconds=-1)), "faults[0].delay"),
    ],
)
async def test_a_bad_script_is_refused(place: Path, fault: mpb.MockFault, field: str) -> None:
    """The field is named, and the script in force stays."""
    async with mock_engine(place) as client:
        error = await refusal(script(client, fault))
        assert (type(error), error.violations[0].field_path) == (InvalidArgument, field)
        error = await refusal(act(client))
        assert isinstance(error, NotFound)
