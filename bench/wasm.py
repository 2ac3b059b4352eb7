"""A function: a call beside a bare RPC, a fresh Python process and a container; cold starts, a steady load, memory."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from bench import bare, processes
from bench.measure import interleaved, ratios, timed
from bench.nodes import start
from bench.podman import ENVIRONMENT
from bench.report import Effort, Report, percentile, spread, verdict
from bench.report import table as rows
from scripts.client import Client
from scripts.demo import CACHE
from scripts.local_node import LocalNode
from scripts.make_test_image import REFERENCE, import_image

CODE = "def process(event):\n    return {'sum': sum(event['values'])}\n"
EVENT = b'{"values": [1, 2, 3]}'
FUNCTION = f"""\
apiVersion: beemesh.io/v1
kind: Function
metadata:
  name: NAME
spec:
  runtime: python:3.14
  handler: main.process
  memory: 128Mi
  concurrency: 4
  code:
    inline: {json.dumps(CODE)}
"""
NAME = "summed"
WARM_GOAL = 3.0
P99_GOAL_MS = 10.0
SPARE_GOAL_MS = 20.0
ZERO_GOAL_MS = 150.0
RATE = 100

_BARE, _WARM = "one bare RPC", "warm call, client → orchestrator → engine → sandbox"
_PROCESS, _CONTAINER = "the same in a fresh `python3`", "`podman run` of a container that only echoes"
_BUILD_SECONDS = 600
_CALL_SECONDS = 60.0
_LOAD_SECONDS = 0.1
"""For a spare worker to be there again."""


@contextmanager
def node(**settings: str) -> Iterator[LocalNode]:
    """A node with this engine, and the function applied."""
    local = LocalNode(engines="wasm", env={"BEEMESH_CACHE_DIR": str(CACHE)} | settings)
    try:
        start(local)
        try:
            with Client(local.socket) as client:
                _apply(client)
            yield local
        finally:
            local.stop()
    finally:
        local.remove()


def _apply(client: Client) -> None:
    request = pb.ApplyManifestRequest(
        deployment_id=NAME,
        manifest=Manifest(content=FUNCTION.replace("NAME", NAME)),
        wait=Duration(seconds=_BUILD_SECONDS),
    )
    client.call(client.orchestrator.ApplyManifest, request, seconds=_BUILD_SECONDS)


class Caller:
    """One client of a node."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def invoke(self) -> float:
        """Seconds of one call."""
        return timed(self.answer)

    def answer(self) -> Any:
        """One call's answer."""
        request = pb.InvokeDeploymentRequest(name=NAME, event_json=EVENT)
        return self._client.call(self._client.orchestrator.InvokeDeployment, request, seconds=_CALL_SECONDS).invocation

    def cold(self) -> float:
        """Seconds of a call that finds no instance."""
        request = pb.RestartDeploymentRequest(name=NAME)
        self._client.call(self._client.orchestrator.RestartDeployment, request, seconds=_CALL_SECONDS)
        time.sleep(_LOAD_SECONDS * 10)
        began = time.perf_counter()
        if not self.answer().cold_start:
            raise RuntimeError("the call was not a cold one")
        return time.perf_counter() - began

    def worker_pids(self) -> list[int]:
        """The processes of its instances."""
        listed = self._client.call(self._client.engine.ListWorkloads, engine_pb.ListWorkloadsRequest(), engine="wasm")
        return [int(pid) for pid in dict(listed.workloads[0].engine_details)["worker_pids"]]


def run(effort: Effort) -> Report:
    """One after the other."""
    beside, warm_ms = _beside(effort.of(30, 2))
    return Report(body="\n\n".join([beside, _cold(effort.of(9, 1), warm_ms), _steady(effort.of(10, 1))]))


def _beside(rounds: int) -> tuple[str, float]:
    """The table of a call and what it is measured against; the median of a warm call in ms."""
    with (
        tempfile.TemporaryDirectory() as directory,
        bare.chain(cores=os.sched_getaffinity(0)) as target,
        node() as local,
        Client(local.socket) as client,
        grpc.insecure_channel(target.replace("orchestrator", "engine")) as channel,
    ):
        untyped: Any = channel  # the stubs are typed for asyncio only, and serve both
        stub: Any = engine_grpc.EngineServiceStub(untyped)
        empty = engine_pb.DeployWorkloadRequest(workload_id=NAME, manifest_id=NAME)
        contenders: dict[str, Callable[[], float]] = {
            _BARE: lambda: _median(lambda: stub.DeployWorkload(empty, timeout=_CALL_SECONDS)),
            _WARM: lambda: _median(Caller(client).answer),
            _PROCESS: lambda: timed(lambda: _fresh(Path(directory))),
        }
        if _has_podman():
            contenders[_CONTAINER] = lambda: timed(_container)
        found = interleaved(contenders, rounds=rounds)
    ratio = statistics.median(ratios(found, _WARM, against=_BARE))
    cells = [
        [what, spread(seconds, digits=2, scale=1000), spread(ratios(found, what, against=_BARE), digits=2)]
        for what, seconds in found.items()
    ]
    body = (
        f"{rows(['what', 'median ms (min–max)', 'ratio by round'], cells)}\n\n"
        f"Goal: a warm call ≤ {WARM_GOAL:.0f} × one bare RPC, by round: {verdict(ratio <= WARM_GOAL)} ({ratio:.2f}). "
        f"{rounds} rounds, in turns; of the two quick ones each round takes the median of 20 calls. "
        "The container has no Python, so it is a lower bound."
    )
    return body, statistics.median(found[_WARM]) * 1000


def _median(work: Callable[[], object]) -> float:
    return statistics.median(timed(work) for _ in range(20))


def _fresh(directory: Path) -> None:
    """The function in a new interpreter, the event on stdin."""
    script = directory / "main.py"
    if not script.exists():
        script.write_text(CODE + "import json, sys\nprint(json.dumps(process(json.load(sys.stdin))))\n")
    subprocess.run([sys.executable, "-S", str(script)], input=EVENT, capture_output=True, check=True, timeout=60)


def _has_podman() -> bool:
    try:
        import_image()
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return False
    return True


def _container() -> None:
    command = ["podman", "run", "--rm", "-i", "--network", "none", "--pull", "never", REFERENCE, "cat"]
    subprocess.run(command, input=EVENT, capture_output=True, check=True, timeout=120, env=ENVIRONMENT)


def _cold(rounds: int, warm_ms: float) -> str:
    """Cold starts, with a worker ready and without, and what an idle instance weighs."""
    found: dict[str, Sequence[float]] = {}
    for what, spares in (("with a worker started ahead", "1"), ("from zero", "0")):
        with node(BEEMESH_SPARE_WORKERS=spares) as local, Client(local.socket) as client:
            caller = Caller(client)
            found[what] = [caller.cold() - warm_ms / 1000 for _ in range(rounds)]
            if spares == "1":
                weights = asyncio.run(_weights(local, caller))
    goals = {"with a worker started ahead": SPARE_GOAL_MS, "from zero": ZERO_GOAL_MS}
    cells = []
    for what, seconds in found.items():
        reached = verdict(statistics.median(seconds) * 1000 <= goals[what])
        cells.append([what, spread(seconds, digits=1, scale=1000), f"{goals[what]:.0f}", reached])
    header = ["cold start", "ms beyond a warm call (min–max)", "goal ≤", "reached"]
    return f"{rows(header, cells)}\n\n{rounds} each.\n\n{weights}"


async def _weights(local: LocalNode, caller: Caller) -> str:
    """PSS of instances that wait for a call, four of them at once."""
    async with grpc.aio.insecure_channel(local.socket) as channel:
        stub = pb_grpc.OrchestratorServiceStub(channel)
        request = pb.InvokeDeploymentRequest(name=NAME, event_json=EVENT)
        for _ in range(20):
            await asyncio.gather(*(stub.InvokeDeployment(request, timeout=_CALL_SECONDS) for _ in range(16)))
    pids = await asyncio.to_thread(_told, caller)
    memory = [processes.memory(pid) for pid in pids]
    each = statistics.median(item.pss for item in memory) / 1e6
    return f"An idle instance is a process of {each:.1f} MB PSS ({len(memory)} of one function, side by side)."


def _told(caller: Caller) -> list[int]:
    """The workers, once the engine's view of them is fresh."""
    time.sleep(6)
    return caller.worker_pids()


def _steady(seconds: int) -> str:
    """Calls at a fixed rate, whether or not the one before has answered."""
    with node() as local:
        took = asyncio.run(_load(local.socket, seconds))
    p99 = percentile(took, 99) * 1000
    header = ["at", "p50 ms", "p99 ms", "worst ms", f"goal p99 ≤ {P99_GOAL_MS:.0f}"]
    worst = max(took) * 1000
    cells = [f"{RATE}/s for {seconds} s", f"{percentile(took, 50) * 1000:.1f}", f"{p99:.1f}", f"{worst:.1f}"]
    return rows(header, [[*cells, verdict(p99 <= P99_GOAL_MS)]])


async def _load(target: str, seconds: int) -> list[float]:
    took: list[float] = []
    request = pb.InvokeDeploymentRequest(name=NAME, event_json=EVENT)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = pb_grpc.OrchestratorServiceStub(channel)

        async def call() -> None:
            began = time.perf_counter()
            await stub.InvokeDeployment(request, timeout=_CALL_SECONDS)
            took.append(time.perf_counter() - began)

        for _ in range(RATE):
            await call()
        took.clear()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(RATE * seconds):
                await asyncio.sleep(max(0.0, started + number / RATE - time.perf_counter()))
                group.create_task(call())
    return took
