"""The engine is killed in the middle: the truth comes back with the next one, and nothing is orphaned."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.identity import LABEL_WORKLOAD_ID
from services.rpc.client import connect
from tests.harness.compose import ComposeMachine
from tests.harness.docker import IMAGE
from tests.harness.processes import short_directory, until_serving
from tests.integration.compose.workloads import SECONDS, WAITS

pytestmark = [pytest.mark.timeout(120)]

STUCK = f"""\
services:
  web: {{image: {IMAGE}, command: [sh, -c, "{WAITS}"], depends_on: {{db: {{condition: service_healthy}}}}}}
  db:
    image: {IMAGE}
    command: [sh, -c, "{WAITS}"]
    healthcheck: {{test: [CMD, "false"], interval: 1s, retries: 999}}
"""
FINE = f'services: {{web: {{image: {IMAGE}, command: [sh, -c, "{WAITS}"]}}}}\n'
SLOW_TO_END = FINE.replace("exit 0", "sleep 3; exit 0").replace("}}", ", stop_grace_period: 20s}}")


@asynccontextmanager
async def engine(
    machine: ComposeMachine, directory: Path, node_id: str
) -> AsyncIterator[tuple[pb_grpc.EngineServiceStub, asyncio.subprocess.Process]]:
    """The engine as a process of its own, ended by -9."""
    words, env = machine.program(directory)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words),
        *("--listen", f"unix:{directory}/e.sock", "--data-dir", f"{directory}/data", "--run-dir", f"{directory}/run"),
        *("--registry", "", "--provider", "", "--node-id", node_id),
        *("--poll-interval", "0.5", "--log-level", "ERROR", "--observe-timeout", "10"),
        env=dict(env),
    )
    try:
        async with connect(f"unix:{directory}/e.sock", files=[pb.DESCRIPTOR]) as channel:
            await until_serving(channel, seconds=SECONDS)
            yield pb_grpc.EngineServiceStub(channel), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def deploying(workload: str, text: str) -> pb.DeployWorkloadRequest:
    """A request to deploy it, whatever is there."""
    request = pb.DeployWorkloadRequest(workload_id=workload, manifest_id="shop", allow_replace=True)
    request.manifest.content = text
    return request


async def state_of(stub: pb_grpc.EngineServiceStub, workload: str) -> int:
    """Its state."""
    return (await stub.GetWorkload(pb.GetWorkloadRequest(workload_id=workload), timeout=SECONDS)).workload.state


def composes(project: str) -> list[int]:
    """The processes of Compose that work on a project."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if project.encode() in words and b"docker-compose" in words[0]:
            found.append(int(path.parent.name))
    return found


async def test_killed_while_it_brings_up_and_while_it_takes_down(machine: ComposeMachine, node_id: str) -> None:
    """Compose dies with it; the half-made workload is told as such, made anew, and its removal is finished."""
    before, workload = machine.objects(), f"beemesh-shop-{node_id[:8]}"
    label = f"{LABEL_WORKLOAD_ID}={workload}"
    with short_directory() as directory:
        async with engine(machine, directory, node_id) as (stub, process):
            creating = stub.DeployWorkload(deploying(workload, STUCK), timeout=SECONDS)
            async with asyncio.timeout(SECONDS):
                while not composes(f"bm-{workload}") or len(machine.containers(label)) < 2:
                    await asyncio.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            creating.cancel()
            async with asyncio.timeout(SECONDS):
                while composes(f"bm-{workload}"):
                    await asyncio.sleep(0.05)
        async with engine(machine, directory, node_id) as (stub, process):
            async with asyncio.timeout(SECONDS):
                while await state_of(stub, workload) not in (wpb.WORKLOAD_STATE_FAILED, wpb.WORKLOAD_STATE_DEGRADED):
                    await asyncio.sleep(0.1)
            done = await stub.DeployWorkload(deploying(workload, SLOW_TO_END), timeout=SECONDS)
            assert done.action == tpb.CHANGE_ACTION_CREATE
            assert len(machine.containers(label)) == 1
            removing = stub.RemoveWorkload(pb.RemoveWorkloadRequest(workload_id=workload), timeout=SECONDS)
            async with asyncio.timeout(SECONDS):
                while await state_of(stub, workload) != wpb.WORKLOAD_STATE_STOPPING:
                    await asyncio.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
            removing.cancel()
        async with engine(machine, directory, node_id):
            async with asyncio.timeout(SECONDS):
                while machine.objects() != before:
                    await asyncio.sleep(0.1)
