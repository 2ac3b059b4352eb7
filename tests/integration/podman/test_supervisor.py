"""Containers on a real podman are kept alive as their policy says, and probed, also by an engine that came later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from services.engines.admission import DeployOrder
from services.engines.backend import Limits
from services.engines.deployer import RemoveOrder
from services.engines.engine import Component, Observation, Spec, WorkloadState
from services.engines.keeper import Keeper
from services.engines.podman.engine import PodmanEngine
from services.engines.podman.service import PodmanService
from services.engines.pods.acts import SupervisorLimits
from services.engines.pods.report import CRASH_LOOP, NOT_READY
from services.engines.records import Halt, Records
from services.engines.restarts import BackOff
from tests.harness.podman import PodmanMachine
from tests.integration.podman.test_podman_service import engine_process
from tests.integration.podman.workloads import FOREVER, answering, container, destroy, only, spec, until

pytestmark = [pytest.mark.podman, pytest.mark.timeout(90)]

ALIVE = {"exec": {"command": ["sh", "-c", "test -e /alive"]}, "periodSeconds": 1, "failureThreshold": 1}
BASE = 1.0
LIMITS = SupervisorLimits(back_off=BackOff(base=BASE, cap=4.0), poll=2.0)


@contextlib.asynccontextmanager
async def supervising(
    machine: PodmanMachine, node_id: str, *, service: PodmanService | None = None, limits: SupervisorLimits = LIMITS
) -> AsyncIterator[PodmanEngine]:
    """An engine with a short back-off."""
    async with machine.engine(node_id, service=service, supervisor_limits=limits) as engine:
        await answering(engine)
        yield engine


def kill(machine: PodmanMachine, component: Component) -> None:
    """KILL the container's process, behind podman's back."""
    (pid,) = (item["Pid"] for item in machine.listed("ps") if item["Id"] == component.component_id)
    os.kill(pid, signal.SIGKILL)


def run(machine: PodmanMachine, component: Component, script: str) -> str:
    """What a command in the container prints."""
    return machine.podman("exec", component.component_id, "sh", "-c", script)


async def restarted(engine: PodmanEngine, wanted: Spec, count: int, seconds: float = 15.0) -> Component:
    """The one component, once it runs again after so many restarts."""

    def holds(found: Observation) -> bool:
        part = only(found)
        return part.restart_count >= count and part.state is WorkloadState.RUNNING

    return only(await until(engine, wanted.workload_id, holds, f"runs after {count} restarts", seconds))


async def test_a_killed_container_is_restarted_with_back_off_and_counted(machine: PodmanMachine, node_id: str) -> None:
    """A killed container runs again at once, killed again only after the back-off, and each restart is counted."""
    before, wanted = machine.objects(), spec(node_id, container(f"echo x >> /kept; {FOREVER}"))
    async with supervising(machine, node_id) as engine:
        await engine.create(wanted)
        first = only(await engine.observe_one(wanted.workload_id))
        assert (first.restart_count, first.ready, first.last_exit) == (0, True, None)
        kill(machine, first)
        second = await restarted(engine, wanted, 1, seconds=8)
        assert second.component_id == first.component_id
        assert second.last_exit is not None
        assert (second.last_exit.exit_code, second.last_exit.reason) == (137, "Error")
        began = time.monotonic()
        kill(machine, second)
        waiting = only(
            await until(engine, wanted.workload_id, lambda seen: only(seen).reason == CRASH_LOOP, "it waits")
        )
        assert (waiting.state, waiting.ready_once, waiting.restart_count) == (WorkloadState.STARTING, True, 1)
        assert "back-off of 1 s" in waiting.message
        assert waiting.exit_status is not None
        assert waiting.exit_status.exit_code == 137
        third = await restarted(engine, wanted, 2)
        assert time.monotonic() - began >= BASE
        assert third.restart_count == 2
        assert run(machine, third, "cat /kept").split() == ["x"] * 3
        await destroy(engine, wanted.workload_id)
        assert not list((engine._service.data_dir / "restarts").glob("*"))
    assert machine.objects() == before


async def test_what_exits_well_is_restarted_only_by_always(machine: PodmanMachine, node_id: str) -> None:
    """After exit 0 OnFailure and Never leave a container ended; after exit 3 OnFailure and Always restart it."""
    cases = {
        ("OnFailure", 0): False,
        ("OnFailure", 3): True,
        ("Never", 0): False,
        ("Never", 3): False,
        ("Always", 0): True,
    }
    pods = {
        case: spec(
            node_id, container(f"sleep 0.3; exit {case[1]}"), name=f"{case[0].lower()}{case[1]}", restartPolicy=case[0]
        )
        for case in cases
    }
    async with supervising(machine, node_id) as engine:
        await asyncio.gather(*(engine.create(pod) for pod in pods.values()))
        for case, is_restarted in cases.items():
            workload = pods[case].workload_id
            if is_restarted:
                await until(engine, workload, lambda seen: only(seen).restart_count >= 2, f"{case} restarts", 20)
                continue
            found = only(await until(engine, workload, lambda seen: only(seen).exit_status is not None, f"{case} ends"))
            assert found.state is (WorkloadState.FAILED if case[1] else WorkloadState.SUCCEEDED)
            assert (found.restart_count, found.reason) == (0, "Error" if case[1] else "Completed")
        await asyncio.gather(*(destroy(engine, pod.workload_id, grace=1) for pod in pods.values()))


async def test_a_failing_liveness_probe_restarts_the_container(machine: PodmanMachine, node_id: str) -> None:
    """A container whose liveness probe fails is ended with TERM and restarted; the reason and the count are told."""
    script = "trap 'echo ended; exit 0' TERM; touch /alive; while :; do sleep 0.05; done"
    wanted = spec(
        node_id,
        container(
            script,
            livenessProbe={
                "exec": {"command": ["sh", "-c", "test -e /alive"]},
                "periodSeconds": 1,
                "failureThreshold": 2,
            },
        ),
        restartPolicy="OnFailure",
    )
    async with supervising(machine, node_id) as engine:
        await engine.create(wanted)
        first = only(await engine.observe_one(wanted.workload_id))
        await asyncio.sleep(2.5)
        assert only(await engine.observe_one(wanted.workload_id)).restart_count == 0
        run(machine, first, "rm /alive")
        second = await restarted(engine, wanted, 1)
        assert second.last_exit is not None
        assert (second.last_exit.exit_code, second.last_exit.reason) == (0, "LivenessProbeFailed")
        assert "ended" in machine.podman("logs", second.component_id)
        await destroy(engine, wanted.workload_id)


async def test_a_startup_probe_delays_liveness(machine: PodmanMachine, node_id: str) -> None:
    """While the startup probe has not succeeded, liveness is not asked, and the container is not ready."""
    wanted = spec(
        node_id, container(FOREVER, startupProbe={**ALIVE, "failureThreshold": 60}, livenessProbe=ALIVE), name="slow"
    )
    async with supervising(machine, node_id) as engine:
        await engine.create(wanted)
        await asyncio.sleep(3)
        found = only(await engine.observe_one(wanted.workload_id))
        assert (found.ready, found.started, found.restart_count, found.reason) == (False, False, 0, NOT_READY)
        run(machine, found, "touch /alive")
        await until(engine, wanted.workload_id, lambda seen: bool(only(seen).ready), "it has started")
        run(machine, found, "rm /alive")
        assert (await restarted(engine, wanted, 1)).started is False
        await destroy(engine, wanted.workload_id)


async def test_readiness_comes_and_goes(machine: PodmanMachine, node_id: str) -> None:
    """A container is ready while its readiness probe succeeds, is told why it is not, and is never restarted for it."""
    port = 8080
    serve = f"mkdir -p /www; httpd -p {port} -h /www; {FOREVER}"
    wanted = spec(
        node_id,
        container(
            serve,
            ports=[{"name": "http", "containerPort": port}],
            readinessProbe={"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
            livenessProbe={"tcpSocket": {"port": port}, "periodSeconds": 1},
        ),
    )
    async with supervising(machine, node_id) as engine:
        await engine.create(wanted)
        found = only(
            await until(engine, wanted.workload_id, lambda seen: "404" in only(seen).message, "it is not ready")
        )
        assert (found.state, found.ready, found.started) == (WorkloadState.RUNNING, False, True)
        assert (found.reason, found.ready_once) == (NOT_READY, False)
        run(machine, found, "touch /www/ready")
        found = only(await until(engine, wanted.workload_id, lambda seen: bool(only(seen).ready), "it is ready"))
        assert (found.reason, found.message) == ("", "")
        run(machine, found, "rm /www/ready")
        found = only(await until(engine, wanted.workload_id, lambda seen: not only(seen).ready, "it is not any more"))
        assert (found.ready_once, found.restart_count) == (True, 0)
        kill(machine, found)  # its pod gets another address
        await restarted(engine, wanted, 1)
        run(machine, found, "touch /www/ready")
        await until(engine, wanted.workload_id, lambda seen: bool(only(seen).ready), "it is ready again")
        assert only(await engine.observe_one(wanted.workload_id)).restart_count == 1
        await destroy(engine, wanted.workload_id)


async def test_a_probe_that_hangs_is_ended(machine: PodmanMachine, node_id: str) -> None:
    """A command that takes longer than its timeout fails the probe, and does not run on."""
    wanted = spec(
        node_id,
        container(FOREVER, readinessProbe={"exec": {"command": ["sh", "-c", "exec sleep 1234"]}, "periodSeconds": 1}),
    )
    async with supervising(machine, node_id) as engine:
        await engine.create(wanted)
        found = await until(
            engine, wanted.workload_id, lambda seen: "no answer within 1 s" in only(seen).message, "late"
        )
        await asyncio.sleep(2)
        running = machine.podman("top", only(found).component_id, "args").count("sleep 1234")
        await destroy(engine, wanted.workload_id)
    assert running <= 1


async def test_an_engine_that_was_killed_goes_on_where_it_was(machine: PodmanMachine, node_id: str) -> None:
    """After kill -9 another engine keeps the counters, sees what ended meanwhile, and leaves alone what runs."""
    places = machine.service_settings()
    runs, ends = spec(node_id, container(FOREVER), name="runs"), spec(node_id, container(FOREVER), name="ends")
    async with supervising(machine, node_id, service=PodmanService(places, env=machine.env)) as engine:
        await asyncio.gather(engine.create(runs), engine.create(ends))
        first, second = (
            only(await engine.observe_one(runs.workload_id)),
            only(await engine.observe_one(ends.workload_id)),
        )
    with engine_process(machine, node_id, places) as process:
        pids = machine.pids(f"beemesh.io/node-id={node_id}")
        before = {part.component_id: pids[part.component_id] for part in (first, second)}
        for part in (first, second):
            kill(machine, part)
        await run_again(machine, node_id, before)
        process.kill()
        process.wait(10)
    pid = machine.pids(f"beemesh.io/node-id={node_id}")[first.component_id]
    kill(machine, second)
    async with supervising(machine, node_id, service=PodmanService(places, env=machine.env)) as engine:
        kept = only(await engine.observe_one(runs.workload_id))
        assert (kept.restart_count, kept.ready, kept.ready_once) == (1, True, True)
        assert (await restarted(engine, ends, 2)).restart_count == 2
        assert machine.pids(f"beemesh.io/node-id={node_id}")[first.component_id] == pid
        await asyncio.gather(*(destroy(engine, wanted.workload_id) for wanted in (runs, ends)))


async def run_again(machine: PodmanMachine, node_id: str, before: Mapping[str, int]) -> None:
    """Wait until all have other processes than before."""
    for _ in range(100):
        now = machine.pids(f"beemesh.io/node-id={node_id}")
        if all(now.get(container_id, pid) != pid for container_id, pid in before.items()):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("they were not started again within 10 s")


async def test_a_removal_while_a_restart_waits_starts_nothing(machine: PodmanMachine, node_id: str) -> None:
    """A workload that is removed during its back-off leaves nothing, and none of it is started again."""
    before, wanted = machine.objects(), spec(node_id, container("exit 3"))
    async with supervising(machine, node_id) as engine:
        await engine.create(wanted)
        await until(engine, wanted.workload_id, lambda seen: only(seen).reason == CRASH_LOOP, "it waits")
        assert await destroy(engine, wanted.workload_id) < 3
        await asyncio.sleep(1.5 * BASE)
        assert await engine.observe() == {}
    assert machine.objects() == before


@contextlib.asynccontextmanager
async def kept(machine: PodmanMachine, node_id: str, service: PodmanService, data: Path) -> AsyncIterator[Keeper]:
    """An engine with its keeper, as in its service; the backend answers."""
    async with supervising(machine, node_id, service=service) as engine:
        keeper = Keeper(engine=engine, records=Records(data), clock=time.time, epoch="e", limits=Limits(observe=10.0))
        async with keeper:
            yield keeper


async def test_what_was_stopped_stays_so_whatever_is_forgotten(
    machine: PodmanMachine, node_id: str, tmp_path: Path
) -> None:
    """A stopped workload is not started by a later engine, though all is lost that the supervisor remembered."""
    service = machine.service()
    later = PodmanService(service._settings, env=machine.env)
    wanted = spec(node_id, container(FOREVER))
    order = DeployOrder(
        workload_id=wanted.workload_id,
        manifest_id=wanted.ownership.deployment_id,
        text=wanted.manifest.text,
    )
    async with kept(machine, node_id, service, tmp_path) as keeper:
        await keeper.deploy(order)
        await keeper.power.stop(wanted.workload_id, Halt())
    shutil.rmtree(service.data_dir / "restarts")
    async with kept(machine, node_id, later, tmp_path) as keeper:
        await keeper.refresh()
        await asyncio.sleep(1.5 * BASE)
        stopped = await keeper.get(wanted.workload_id)
        assert (stopped.state, machine.pids(f"beemesh.io/node-id={node_id}")) == (WorkloadState.STOPPED, {})
        await keeper.power.start(wanted.workload_id)
        (part,) = (await keeper.get(wanted.workload_id)).components
        kill(machine, part)
        async with asyncio.timeout(15):
            while (part := (await keeper.get(wanted.workload_id)).components[0]).restart_count < 1 or not part.ready:
                await asyncio.sleep(0.1)
        await keeper.remove(RemoveOrder(workload_id=wanted.workload_id))
