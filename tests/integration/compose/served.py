"""The engine as a process of its own, which a test may end by -9."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc

from services.rpc.client import connect
from tests.harness.compose import ComposeMachine
from tests.harness.processes import until_serving
from tests.integration.compose.workloads import SECONDS


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
