"""The podman service: its health is told truly, and its death, or the engine's, touches no container."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import pytest

from services.engines.engine import Health, HealthState, WorkloadState
from services.engines.podman.engine import PodmanEngine
from services.engines.podman.probe import INSTALL, Probe, ProbeTimes
from services.engines.podman.service import PodmanService, ServiceSettings
from services.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from tests.harness.podman import PodmanMachine
from tests.integration.podman.workloads import FOREVER, answering, container, destroy, engine_on, only, spec

pytestmark = [pytest.mark.timeout(60)]


class _Places(TypedDict):
    containers_conf: None
    run_dir: Path
    data_dir: Path


@pytest.mark.podman
async def test_a_canary_vouches_for_health_and_leaves_nothing(machine: PodmanMachine, node_id: str) -> None:
    """A healthy podman tells its facts, and neither the canary nor one left by an earlier engine stays."""
    before = machine.objects()
    machine.podman("pod", "create", "--label", f"beemesh.io/canary={node_id}", "--infra=false", "--name", "bm-left")
    async with machine.engine(node_id) as engine:
        health = await probed(engine)
        assert (health.state, health.reason) == (HealthState.HEALTHY, "")
        assert {"backend_version", "runtime", "cgroup", "rootless", "socket", "service_pid"} <= set(health.attributes)
        assert engine.info.backend_version == health.attributes["backend_version"]
    assert machine.objects() == before


@pytest.mark.podman
async def test_nobody_waits_for_a_canarys_successor(machine: PodmanMachine, node_id: str) -> None:
    """While the first canary takes its time that is said; later the last one vouches, until its successor has died."""
    now, before = time.time(), machine.objects()
    service, times = machine.service(), ProbeTimes(canary_wait=0.01)
    async with (
        service,
        Probe(service=service, node_id=node_id, network="podman", clock=lambda: now, times=times) as probe,
    ):
        assert (await probe.run()).reason == "CANARY_SLOW"
        async with asyncio.timeout(20):
            while (await probe.run()).reason == "CANARY_SLOW":
                await asyncio.sleep(0.1)
        assert (await probe.run()).state is HealthState.HEALTHY
        probe._network = "no-such-net"
        assert (await probe.run()).state is HealthState.HEALTHY
        now += ProbeTimes().canary_fresh
        assert (await probe.run()).state is HealthState.HEALTHY
        async with asyncio.timeout(20):
            while (health := await probe.run()).state is HealthState.HEALTHY:
                await asyncio.sleep(0.1)
        assert health.reason == "CANARY_FAILED"
    assert machine.objects() == before


@pytest.mark.podman
async def test_a_podman_that_cannot_start_pods_is_unhealthy(machine: PodmanMachine, node_id: str) -> None:
    """A podman that answers every ping and cannot start a pod is UNHEALTHY, in its own words."""
    engine = PodmanEngine(node_id=node_id, service=machine.service(), network="no-such-net", clock=time.time)
    before = machine.objects()
    async with engine:
        health = await probed(engine)
    assert (health.state, health.reason) == (HealthState.UNHEALTHY, "CANARY_FAILED")
    assert "no-such-net" in health.message
    assert "podman_network" in health.message
    assert machine.objects() == before


@pytest.mark.podman
async def test_a_frozen_service_is_told_in_time_and_heals(machine: PodmanMachine, node_id: str) -> None:
    """A frozen service is UNHEALTHY within four seconds, its workloads are not taken for gone, and it heals."""
    wanted, service = spec(node_id, container(FOREVER)), machine.service()
    engine = machine.engine(node_id, service=service)
    async with engine:
        await answering(engine)
        await engine.create(wanted)
        assert (await probed(engine)).state is HealthState.HEALTHY
        with frozen(service):
            began = time.monotonic()
            assert (await engine.probe()).reason == "PING_TIMEOUT"
            assert time.monotonic() - began < 4
            with pytest.raises((DeadlineExceeded, TimeoutError)):
                async with asyncio.timeout(1):
                    await engine.observe_one(wanted.workload_id)
        assert (await probed(engine)).state is HealthState.HEALTHY
        assert only(await engine.observe_one(wanted.workload_id)).state is WorkloadState.RUNNING
        await destroy(engine, wanted.workload_id)


@pytest.mark.podman
async def test_a_killed_service_comes_back_and_no_container_notices(machine: PodmanMachine, node_id: str) -> None:
    """When its service is killed the engine starts another, and the container is the same process as before."""
    wanted, service = spec(node_id, container(FOREVER)), machine.service()
    async with machine.engine(node_id, service=service) as engine:
        await answering(engine)
        await engine.create(wanted)
        before, first = machine.pids(f"beemesh.io/node-id={node_id}"), service.pid
        assert first is not None
        assert list(before.values()) != [0]
        os.kill(first, signal.SIGKILL)
        with pytest.raises(Unavailable):
            await observe_until_it_fails(engine)
        await answering(engine)
        assert service.pid != first
        assert machine.pids(f"beemesh.io/node-id={node_id}") == before
        assert only(await engine.observe_one(wanted.workload_id)).state is WorkloadState.RUNNING
        assert (await probed(engine)).state is HealthState.HEALTHY
        await destroy(engine, wanted.workload_id)


@pytest.mark.podman
async def test_a_killed_engine_takes_its_service_along_and_no_container(machine: PodmanMachine, node_id: str) -> None:
    """When the engine is killed its podman service dies with it, and the containers run on as the same processes."""
    wanted = spec(node_id, container(FOREVER))
    label = f"beemesh.io/node-id={node_id}"
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        before = machine.pids(label)
        with engine_process(machine, node_id) as process:
            service_pid = await _service_of(process)
            process.kill()
            process.wait(10)
            deadline = time.monotonic() + 5
            while _runs(service_pid):
                assert time.monotonic() < deadline, "the service outlives its engine"
                await asyncio.sleep(0.02)
        assert before
        assert machine.pids(label) == before
        await destroy(engine, wanted.workload_id)


async def test_without_podman_it_is_undetected_and_says_how_to_get_it(tmp_path: Path) -> None:
    """Where podman is not installed the engine is UNDETECTED and says what to install."""
    health = await _health_of(ServiceSettings(**_places(tmp_path), socket=tmp_path / "none.sock", binary="no-podman"))
    assert (health.state, health.reason) == (HealthState.UNDETECTED, "BACKEND_NOT_FOUND")
    assert INSTALL in health.message


async def test_a_missing_socket_is_unreachable(tmp_path: Path) -> None:
    """A socket that was named and is not there is SOCKET_UNREACHABLE, and so is one that nobody serves."""
    socket = tmp_path / "none.sock"
    settings = ServiceSettings(**_places(tmp_path), socket=socket, binary="sh")
    assert (await _health_of(settings)).reason == "SOCKET_UNREACHABLE"
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), socket)
    server.close()
    await server.wait_closed()
    socket.touch()
    assert (await _health_of(settings)).reason == "SOCKET_UNREACHABLE"


async def test_who_only_looks_like_podman_is_found_out(tmp_path: Path) -> None:
    """A service that answers pings and is not podman, as dockerd does, is an IMPOSTOR_BACKEND."""
    socket = tmp_path / "docker.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n")).split()[1]
        answer = b"200 OK\r\nContent-Length: 2\r\n\r\nOK" if line == b"/_ping" else b"404 Not Found\r\n\r\nnot here"
        writer.write(b"HTTP/1.1 " + answer)
        await writer.drain()
        writer.close()

    settings = ServiceSettings(**_places(tmp_path), socket=socket, binary="sh")
    async with await asyncio.start_unix_server(serve, socket):
        health = await _health_of(settings)
    assert (health.state, health.reason) == (HealthState.UNHEALTHY, "IMPOSTOR_BACKEND")


async def test_a_service_that_cannot_start_is_tried_again(tmp_path: Path) -> None:
    """A podman whose service ends at once is started again and again, and its last words are told."""
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\necho broken storage >&2\nexit 125\n")
    program.chmod(0o755)
    service = PodmanService(
        ServiceSettings(**_places(tmp_path), socket=None, binary=str(program)), env={"PATH": "/bin"}
    )
    async with PodmanEngine(node_id="f" * 40, service=service, clock=time.time) as engine:
        if not service.is_own:
            pytest.skip("this machine's own podman service is running, and would be used")
        while service.starts < 2:
            await asyncio.sleep(0.02)
        health = await probed(engine)
    assert (health.state, health.reason) == (HealthState.UNHEALTHY, "SOCKET_UNREACHABLE")
    assert "broken storage" in health.message


async def test_a_remote_container_host_is_refused(tmp_path: Path) -> None:
    """A CONTAINER_HOST that is no Unix socket is refused with what to do."""
    settings = ServiceSettings(**_places(tmp_path), socket=None, binary="podman")
    with pytest.raises(FailedPrecondition, match="unset it or set podman_socket"):
        PodmanService(settings, env={"CONTAINER_HOST": "ssh://somewhere"})


def _places(directory: Path) -> _Places:
    return {"containers_conf": None, "run_dir": directory / "run", "data_dir": directory / "data"}


async def _health_of(settings: ServiceSettings) -> Health:
    service = PodmanService(settings, env={})
    async with PodmanEngine(node_id="f" * 40, service=service, clock=time.time) as engine:
        return await probed(engine)


async def observe_until_it_fails(engine: PodmanEngine) -> None:
    """For as long as a killed process still answers."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        await engine.observe()


@contextmanager
def frozen(service: PodmanService) -> Iterator[None]:
    """Stop the service's process, as a debugger would."""
    pid = service.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    while any(") T " not in task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")):
        time.sleep(0.001)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def probed(engine: PodmanEngine) -> Health:
    """What a probe finds, once podman has run the canary or refused it."""
    while (health := await engine.probe()).reason == "CANARY_SLOW":
        continue
    return health


@contextmanager
def engine_process(
    machine: PodmanMachine, node_id: str, places: ServiceSettings | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The engine as a process of its own."""
    places = places or machine.service_settings()
    places.run_dir.mkdir(parents=True, exist_ok=True)
    settings = {
        "LISTEN": f"unix:{places.run_dir}/engine.sock",
        "DATA_DIR": str(places.data_dir),
        "RUN_DIR": str(places.run_dir / "r"),
        "NODE_ID": node_id,
        "REGISTRY": "",
        "PROVIDER": "",
    }
    env = {**machine.env, **{f"BEEMESH_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "services.engines.podman"]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def _service_of(process: subprocess.Popen[str]) -> int:
    """The pid of the service that the engine's log names."""
    assert process.stderr is not None
    while line := await asyncio.to_thread(process.stderr.readline):
        if match := re.search(r"podman_service_started service_pid=(\d+)", line):
            return int(match[1])
    raise AssertionError("the engine ended before it started a service")


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
