"""110 Pods with probes on one node: how fast they are listed, and what watching them costs."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb

from bench import cgroups, processes
from bench.nodes import CALL_SECONDS, IMAGE, Applier, each, node
from bench.report import Effort, Report, percentile, spread, table, verdict
from scripts.client import Client
from scripts.local_node import LocalNode
from scripts.make_test_image import import_image
from services.identity import LABEL_NODE_ID

LIST_GOAL_MS = 100.0
CPU_GOAL_PERCENT = 10.0

_TRIES = 30

_SOCKETS = """\
      readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 10}
      livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 10}
"""
_COMMANDS = """\
      livenessProbe: {exec: {command: ["true"]}, periodSeconds: 10}
"""
_POD = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: {{name}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: {IMAGE}
      imagePullPolicy: Never
      command: ["/bin/sh", "-c", "trap 'exit 0' TERM; echo ok > /tmp/index.html; httpd -f -p 8080 -h /tmp & wait $!"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU, in seconds a second."""

    ours: Mapping[str, float]
    """By service of the node."""
    podman: float
    """podman's service, and what it has started and waited for."""
    conmon: float
    """The containers' monitors, and what they start: runc, for each command that a probe runs."""

    @property
    def percent(self) -> float:
        """Of a core, of all services of the node."""
        return 100 * sum(self.ours.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """All that was measured."""

    pods: int
    commands: int
    """Pods with an exec probe."""
    seconds: int
    """That each cost was measured over."""
    apply_seconds: float
    lists: Sequence[float]
    """The seconds that each list of deployments took."""
    workloads: Sequence[float]
    """The seconds that each list of the engine's workloads took."""
    probed: Cost
    executed: Cost
    bare: Cost
    """Of a node without pods."""


def run(effort: Effort) -> Report:
    """Pods whose probes are connections, then some whose probes are commands."""
    pods, commands, seconds = effort.of(110, 2), effort.of(20, 1), effort.of(20, 2)
    import_image(IMAGE)
    with node("podman") as local, contextlib.ExitStack() as stack:
        stack.callback(_clean, local)
        apply_seconds = _apply(local, "net", pods, _POD + _SOCKETS)
        lists, workloads = _lists(local, effort.of(200, 5))
        probed = _cost(local, seconds)
        _delete(local, "net", pods)
        bare = _cost(local, seconds)
        _apply(local, "exec", commands, _POD + _COMMANDS)
        executed = _cost(local, seconds)
        _delete(local, "exec", commands)
    found = Finding(
        pods=pods,
        commands=commands,
        seconds=seconds,
        apply_seconds=apply_seconds,
        lists=lists,
        workloads=workloads,
        probed=probed,
        executed=executed,
        bare=bare,
    )
    rows = [*_list_rows(found), *_cost_rows(found)]
    return Report(body=f"{table(['what', 'measured', 'goal', 'reached'], rows)}\n\n{_note(found)}")


def _list_rows(found: Finding) -> list[list[str]]:
    rows = []
    for what, took in (("deployments", found.lists), ("the engine's workloads", found.workloads)):
        p99 = percentile(took, 99) * 1000
        rows.append([f"list of {what}, ms", spread(took, digits=1, scale=1000), "", ""])
        rows.append(["the same, p99, ms", f"{p99:.1f}", f"≤ {LIST_GOAL_MS:.0f}", verdict(p99 <= LIST_GOAL_MS)])
    return rows


def _cost_rows(found: Finding) -> list[list[str]]:
    probes = found.pods / 5  # two a pod, each at 10 s
    kinds = (
        (f"{found.pods} pods, {probes:.0f} httpGet and tcpSocket probes a second", found.probed),
        (f"{found.commands} pods, {found.commands / 10:.0f} exec probes a second", found.executed),
        ("no pods", found.bare),
    )
    rows = []
    for what, cost in kinds:
        is_goal = cost is found.probed
        goal = f"≤ {CPU_GOAL_PERCENT:.0f}" if is_goal else ""
        reached = verdict(cost.percent <= CPU_GOAL_PERCENT) if is_goal else ""
        rows.append(
            [f"{what}: CPU of the node, % of a core", f"{cost.percent:.1f} ({_by_service(cost)})", goal, reached]
        )
        beside = f"{cost.podman * 100:.1f}, {cost.conmon * 100:.1f}"
        rows.append(["beside it podman's service with its children, and conmon, %", beside, "", ""])
    return rows


def _note(found: Finding) -> str:
    """What one exec costs, and what as many of them as there are pods would."""
    execs = found.commands / 10
    ours = max(0.0, found.executed.percent - found.bare.percent) * 10 / execs
    theirs = max(0.0, found.executed.podman + found.executed.conmon - found.bare.podman) * 1000 / execs
    many = found.pods / 10
    return (
        f"{found.pods} Pods, applied in {found.apply_seconds:.0f} s; CPU over {found.seconds} s. An exec probe costs "
        f"{theirs:.0f} ms of CPU in podman, whose service, runc and conmon start a process in the container, and "
        f"{ours:.1f} ms in the node's services: {found.pods} of them at 10 s take {theirs * many / 10:.0f} % of a core "
        f"in podman and {ours * many / 10:.1f} % in the node."
    )


def _by_service(cost: Cost) -> str:
    return ", ".join(f"{name.removeprefix('services.')} {value * 100:.1f}" for name, value in sorted(cost.ours.items()))


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


def _apply(local: LocalNode, prefix: str, count: int, manifest: str) -> float:
    async def apply() -> None:
        async with Applier(local.socket, engine="podman") as applier:

            async def until_taken(name: str) -> None:
                for _ in range(_TRIES):
                    try:
                        return await applier.apply(name, manifest)
                    except grpc.aio.AioRpcError as error:  # a busy podman is taken for sick now and then
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(1)
                raise TimeoutError(f"podman did not take {name}")

            await each(until_taken, _names(prefix, count), in_flight=4)

    began = time.perf_counter()
    uvloop.run(apply())
    took = time.perf_counter() - began
    time.sleep(12)  # until each probe has been due once
    return took


def _delete(local: LocalNode, prefix: str, count: int) -> None:
    async def delete() -> None:
        async with Applier(local.socket, engine="podman") as applier:
            await each(applier.delete, _names(prefix, count), in_flight=4)

    uvloop.run(delete())


def _clean(local: LocalNode) -> None:
    """Nothing stays on the machine, however the measuring has ended."""
    command = ["podman", "pod", "ls", "--quiet", "--filter", f"label={LABEL_NODE_ID}={local.node_id()}"]
    left = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    if left:
        subprocess.run(["podman", "pod", "rm", "--force", *left], check=True, capture_output=True, timeout=600)


def _lists(local: LocalNode, count: int) -> tuple[Sequence[float], Sequence[float]]:
    """The seconds of lists by the orchestrator, and by the engine through the same port."""
    deployments, workloads = [], []
    with Client(local.socket) as client:
        for _ in range(count):
            began = time.perf_counter()
            asked = pb.ListDeploymentsRequest(page_size=1000)
            client.call(client.orchestrator.ListDeployments, asked, seconds=CALL_SECONDS)
            middle = time.perf_counter()
            client.call(client.engine.ListWorkloads, engine_pb.ListWorkloadsRequest(page_size=1000), engine="podman")
            deployments.append(middle - began)
            workloads.append(time.perf_counter() - middle)
            time.sleep(0.02)  # over several readings of podman
    return deployments, workloads


def _cost(local: LocalNode, seconds: float) -> Cost:
    services = local.services() | {"node": local.pid}
    engine = services["services.engines.podman"]
    podman = processes.children(engine)
    conmon = _monitors(local.node_id())
    began, before = time.monotonic(), _used(services, podman, conmon)
    time.sleep(seconds)
    took, after = time.monotonic() - began, _used(services, podman, conmon)
    return Cost(
        ours={name: (after[0][name] - before[0][name]) / took for name in services},
        podman=(after[1] - before[1]) / took,
        conmon=(after[2] - before[2]) / took,
    )


def _monitors(node_id: str) -> list[Path]:
    """The control groups of this node's conmons."""
    command = ["podman", "ps", "--quiet", "--no-trunc", "--filter", f"label={LABEL_NODE_ID}={node_id}"]
    ids = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    pids = [pid for name in ids for pid in processes.named("conmon", name)[:1]]
    return [file for pid in pids if (file := cgroups.account(pid)) is not None]


def _used(
    services: Mapping[str, int], podman: Sequence[int], conmon: Sequence[Path]
) -> tuple[Mapping[str, float], float, float]:
    return (
        processes.cpu_by(services),
        sum(processes.cpu(pid, with_ended=True) for pid in podman),
        sum(map(cgroups.seconds, conmon)),
    )
