"""Every engine that runs commands inside its workloads, and measures them, does so alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb

from services.errors import BeemeshError, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from services.rpc.errors import translated
from tests.conformance.conftest import Case
from tests.conformance.test_lifecycle import SECONDS, get, ids, remove, running
from tests.conformance.test_power import claims, restart, start, stop
from tests.harness.engines import EngineClient
from tests.harness.errors import refusal

BIG = 3 << 20


def opening(case: Case, *command: str, **fields: Any) -> pb.ExecWorkloadRequest:
    """The first message."""
    return pb.ExecWorkloadRequest(start=pb.ExecStart(workload_id=case.workload_id, command=command, **fields))


async def run(client: EngineClient, *requests: pb.ExecWorkloadRequest) -> tuple[bytes, bytes, wpb.ExitStatus]:
    """All that a command wrote, and how it ended."""
    out, err, status = bytearray(), bytearray(), None
    with translated():
        async for message in client.engine.ExecWorkload(iter(requests), timeout=SECONDS):
            assert status is None, "something came after the exit status"
            out += message.stdout
            err += message.stderr
            status = message.exit_status if message.HasField("exit_status") else None
    assert status is not None
    return bytes(out), bytes(err), status


async def deployed(client: EngineClient, case: Case) -> wpb.Workload:
    """The test's workload, running."""
    await claims(client, pb.ENGINE_CAPABILITY_EXEC)
    await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
    await running(client, case.workload_id)
    return await get(client, case.workload_id)


async def test_a_command_writes_and_exits(case: Case) -> None:
    """Stdout and stderr apart, and its exit code; the component by id, by name, or the only one."""
    async with case.serve() as client:
        (component,) = (await deployed(client, case)).components
        script = ("sh", "-c", "echo out; echo err >&2; exit 7")
        for name in ("", component.component_id, component.display_name):
            out, err, status = await run(client, opening(case, *script, component_id=name))
            assert (out, err, status.exit_code) == (b"out\n", b"err\n", 7)
        assert (await run(client, opening(case, "true")))[2].exit_code == 0
        await remove(client, case.workload_id)


async def test_a_command_reads_what_is_sent(case: Case) -> None:
    """Megabytes of it come back whole; the caller's end, said or by closing, is the command's."""
    data = bytes(range(256)) * (BIG // 256)
    pieces = [pb.ExecWorkloadRequest(stdin=data[i : i + (1 << 20)]) for i in range(0, BIG, 1 << 20)]
    async with case.serve() as client:
        await deployed(client, case)
        for end in ([pb.ExecWorkloadRequest(close_stdin=True)], []):
            out, _, status = await run(client, opening(case, "cat"), *pieces, *end)
            assert (out == data, status.exit_code) == (True, 0)
        await remove(client, case.workload_id)


async def test_a_terminal_has_a_size(case: Case) -> None:
    """The one that was sent."""
    async with case.serve() as client:
        await deployed(client, case)
        size = pb.ExecWorkloadRequest(resize=pb.TerminalSize(rows=33, columns=77))
        script = opening(case, "sh", "-c", "sleep 0.5; stty size", tty=True)
        out, err, status = await run(client, script, size)
        assert (out.strip(), err, status.exit_code) == (b"33 77", b"", 0)
        await remove(client, case.workload_id)


async def test_a_caller_who_leaves_ends_the_command(case: Case) -> None:
    """No process stays behind: a second command can tell."""
    async with case.serve() as client:
        await deployed(client, case)
        if (await run(client, opening(case, "sh", "-c", "true; exit 0")))[2].exit_code:
            pytest.skip("no shell")
        count = opening(case, "sh", "-c", "ps | grep -c 'sleep 98[7]'")
        for attempt in range(2):
            call = client.engine.ExecWorkload(timeout=SECONDS)
            await call.write(opening(case, "sh", "-c", "echo ready; sleep 987", tty=bool(attempt)))
            answer: Any = await call.read()
            assert answer.stdout.strip() == b"ready"
            call.cancel()
            if case.harness.has_processes:
                async with asyncio.timeout(SECONDS):
                    while (await run(client, count))[0].strip() != b"0":
                        await asyncio.sleep(0.1)
        await remove(client, case.workload_id)


async def ended(client: EngineClient, given: Sequence[pb.ExecWorkloadRequest]) -> BeemeshError:
    """Why a command could not be run."""
    return await refusal(run(client, *given))


async def test_what_cannot_be_run_says_why(case: Case) -> None:
    """No workload, no such component, no such program, no start, no command, and one that does not run."""
    async with case.serve() as client:
        await claims(client, pb.ENGINE_CAPABILITY_EXEC)
        nobody = await ended(client, [opening(case, "true")])
        assert (type(nobody), nobody.reason) == (NotFound, "WORKLOAD_NOT_FOUND")
        await deployed(client, case)
        expected: list[tuple[list[pb.ExecWorkloadRequest], type[BeemeshError], str]] = [
            ([opening(case, "true", component_id="nobody")], NotFound, "COMPONENT_NOT_FOUND"),
            ([opening(case, "no-such-program")], FailedPrecondition, "COMMAND_NOT_FOUND"),
            ([opening(case)], InvalidArgument, "BAD_FIELD"),
            ([pb.ExecWorkloadRequest(stdin=b"x")], InvalidArgument, "EXEC_START_REQUIRED"),
            ([opening(case, "cat"), opening(case, "cat")], InvalidArgument, "EXEC_START_REQUIRED"),
            ([], InvalidArgument, "EXEC_START_REQUIRED"),
        ]
        for given, kind, reason in expected:
            error = await ended(client, given)
            assert (type(error), error.reason) == (kind, reason)
        await stop(client, case.workload_id)
        error = await ended(client, [opening(case, "true")])
        assert (type(error), error.reason) == (FailedPrecondition, "WORKLOAD_NOT_RUNNING")
        await remove(client, case.workload_id)


async def test_each_component_that_runs_has_stats(case: Case) -> None:
    """A time, some memory, a share of a CPU that is no fantasy; nothing for what is stopped."""
    async with case.serve() as client:
        await claims(client, pb.ENGINE_CAPABILITY_STATS)
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        await running(client, case.workload_id)
        request = pb.GetWorkloadStatsRequest(workload_id=case.workload_id)
        stats = (await client.engine.GetWorkloadStats(request, timeout=SECONDS)).stats
        assert {sample.component_id for sample in stats} == ids(await get(client, case.workload_id))
        for sample in stats:
            assert sample.HasField("sample_time")
            assert 0 < sample.memory_bytes < 1 << 32
            assert 0 <= sample.cpu_cores < 64
        await remove(client, case.workload_id)
        error = await refusal(client.engine.GetWorkloadStats(request, timeout=SECONDS))
        assert (type(error), error.reason) == (NotFound, "WORKLOAD_NOT_FOUND")


async def test_verbs_that_are_not_claimed_are_unimplemented(case: Case) -> None:
    """Each with the reason UNSUPPORTED_VERB and its name; the others are not."""
    one = "beemesh-nobody-12345678"
    async with case.serve() as client:
        info = (await client.engine.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS)).info
        engine, claimed = client.engine, set(info.capabilities)
        stats = pb.GetWorkloadStatsRequest(workload_id=one)
        export = pb.ExportManifestRequest(workload_id=one)
        command = pb.ExecWorkloadRequest(start=pb.ExecStart(workload_id=one, command=["true"]))
        calls: dict[str, tuple[pb.EngineCapability.ValueType, Callable[[], Awaitable[Any]]]] = {
            "StopWorkload": (pb.ENGINE_CAPABILITY_STOP_START, lambda: stop(client, one)),
            "StartWorkload": (pb.ENGINE_CAPABILITY_STOP_START, lambda: start(client, one)),
            "RestartWorkload": (pb.ENGINE_CAPABILITY_RESTART, lambda: restart(client, one)),
            "GetWorkloadStats": (pb.ENGINE_CAPABILITY_STATS, lambda: engine.GetWorkloadStats(stats, timeout=SECONDS)),
            "ExportManifest": (pb.ENGINE_CAPABILITY_EXPORT, lambda: engine.ExportManifest(export, timeout=SECONDS)),
            "ExecWorkload": (pb.ENGINE_CAPABILITY_EXEC, lambda: run(client, command)),
        }
        for verb, (capability, call) in calls.items():
            error = await refusal(call())
            if capability in claimed:
                assert isinstance(error, NotFound), verb
            else:
                assert (type(error), error.reason, error.metadata["verb"]) == (Unimplemented, "UNSUPPORTED_VERB", verb)
