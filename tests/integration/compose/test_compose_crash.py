"""The engine is killed in the middle: the truth comes back with the next one, and nothing is orphaned."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.identity import LABEL_WORKLOAD_ID
from tests.harness.compose import ComposeMachine
from tests.harness.docker import IMAGE
from tests.harness.processes import short_directory
from tests.integration.compose.served import deploying, engine, state_of
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
