"""Every engine's logs and watches behave alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.errors import InvalidArgument, NotFound, OutOfRange
from tests.conformance.conftest import Case
from tests.conformance.test_lifecycle import SECONDS, remove
from tests.harness.engines import EngineClient
from tests.harness.errors import refusal

LINES = 10
"""At least so many lines every test workload writes at once."""


async def read(client: EngineClient, workload_id: str, **fields: Any) -> tuple[list[pb.LogEntry], pb.LogEnd]:
    """All lines, and the end."""
    request = pb.StreamWorkloadLogsRequest(workload_id=workload_id, **fields)
    entries: list[pb.LogEntry] = []
    end: pb.LogEnd | None = None
    async for message in client.engine.StreamWorkloadLogs(request, timeout=SECONDS):
        assert end is None, "something came after the end"
        entries += message.entries
        end = message.end if message.HasField("end") else None
    assert end is not None
    return entries, end


async def written(client: EngineClient, workload_id: str) -> list[pb.LogEntry]:
    """All lines, once there are enough of them."""
    async with asyncio.timeout(SECONDS):
        while len(entries := (await read(client, workload_id))[0]) < LINES:
            await asyncio.sleep(0.1)
    return entries


async def test_the_tail_has_no_more_lines_than_asked(case: Case) -> None:
    """The last five of them, in order; none for 0; all when it is not said."""
    async with case.serve() as client:
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        everything = await written(client, case.workload_id)
        tail, end = await read(client, case.workload_id, tail_lines=5)
        assert [entry.text for entry in tail] == [entry.text for entry in everything[-5:]]
        assert all(entry.component_id and entry.HasField("log_time") for entry in tail)
        assert end.reason == "EOF"
        assert (await read(client, case.workload_id, tail_lines=0))[0] == []
        error = await refusal(read(client, case.workload_id, tail_lines=-1))
        assert (type(error), error.violations[0].field_path) == (InvalidArgument, "tail_lines")
        await remove(client, case.workload_id)


async def test_following_ends_when_the_workload_is_removed(case: Case) -> None:
    """The stream gives the lines, stays open, and ends with a reason."""
    async with case.serve() as client:
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        await written(client, case.workload_id)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(read(client, case.workload_id, follow=True))
            done, _ = await asyncio.wait([following], timeout=0.5)
            assert not done
            await remove(client, case.workload_id)
        entries, end = following.result()
        assert len(entries) >= LINES
        assert end.reason in ("REMOVED", "WORKLOAD_EXITED")


async def test_what_is_not_there_has_no_logs(case: Case) -> None:
    """NOT_FOUND, for the workload and for a component that it does not have."""
    async with case.serve() as client:
        error = await refusal(read(client, case.workload_id))
        assert (type(error), error.reason) == (NotFound, "WORKLOAD_NOT_FOUND")
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        assert isinstance(await refusal(read(client, case.workload_id, component_id="nobody")), NotFound)
        await remove(client, case.workload_id)


async def test_a_watch_has_snapshot_synced_and_changes(case: Case) -> None:
    """What is there, SYNCED, then a new workload's ADDED and its REMOVED; a token resumes after its event."""
    async with case.serve() as client:
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        request = pb.WatchWorkloadsRequest(workload_id=case.workload_id)
        call = client.engine.WatchWorkloads(request, timeout=SECONDS)
        events = aiter(call)
        try:
            snapshot, synced = await anext(events), await anext(events)
            assert snapshot.type == tpb.WATCH_EVENT_TYPE_SNAPSHOT
            assert snapshot.workload.workload_id == case.workload_id
            assert (synced.type, bool(synced.resume_token)) == (tpb.WATCH_EVENT_TYPE_SYNCED, True)
            await remove(client, case.workload_id)
            await until(events, tpb.WATCH_EVENT_TYPE_REMOVED)
            await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
            added = await until(events, tpb.WATCH_EVENT_TYPE_ADDED)
            await remove(client, case.workload_id)
            removed = await until(events, tpb.WATCH_EVENT_TYPE_REMOVED)
        finally:
            call.cancel()
        assert removed.workload.state == wpb.WORKLOAD_STATE_REMOVED
        resumed = client.engine.WatchWorkloads(
            pb.WatchWorkloadsRequest(workload_id=case.workload_id, resume_token=added.resume_token), timeout=SECONDS
        )
        try:
            again = await until(aiter(resumed), tpb.WATCH_EVENT_TYPE_REMOVED)
        finally:
            resumed.cancel()
        assert again.resume_token == removed.resume_token


async def test_a_list_says_where_a_watch_goes_on(case: Case) -> None:
    """What happens between the list and the watch is not missed."""
    async with case.serve() as client:
        token = (await client.engine.ListWorkloads(pb.ListWorkloadsRequest(), timeout=SECONDS)).resume_token
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        call = client.engine.WatchWorkloads(pb.WatchWorkloadsRequest(resume_token=token), timeout=SECONDS)
        try:
            assert (await until(aiter(call), tpb.WATCH_EVENT_TYPE_ADDED)).workload.workload_id == case.workload_id
        finally:
            call.cancel()
        await remove(client, case.workload_id)


@pytest.mark.parametrize(("token", "expected"), [("another-run:5", OutOfRange), ("nonsense", InvalidArgument)])
async def test_a_watch_that_cannot_resume_says_so(case: Case, token: str, expected: type[Exception]) -> None:
    """OUT_OF_RANGE for a token of an earlier run, INVALID_ARGUMENT for one that never was."""
    async with case.serve() as client:
        request = pb.WatchWorkloadsRequest(resume_token=token)
        assert isinstance(await refusal(aiter(client.engine.WatchWorkloads(request, timeout=SECONDS))), expected)


async def until(
    events: AsyncIterator[pb.WatchWorkloadsResponse], kind: tpb.WatchEventType.ValueType
) -> pb.WatchWorkloadsResponse:
    """The next event of this kind."""
    async for event in events:
        if event.type == kind:
            return event
    raise AssertionError("the watch ended")
