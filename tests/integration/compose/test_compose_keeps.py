"""A shop of three services through its life: changed, stopped, killed under, repaired, and gone without a trace."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc
from beemesh.engine.v1 import workload_pb2 as wpb

from services.engines.diff import diff
from services.engines.engine import WorkloadState
from services.identity import LABEL_WORKLOAD_ID
from tests.harness.compose import ComposeMachine
from tests.harness.docker import IMAGE
from tests.harness.processes import short_directory
from tests.integration.compose.served import deploying, engine, state_of
from tests.integration.compose.workloads import SECONDS, WAITS, components, ids, remove, said, seen, spec, until

pytestmark = [pytest.mark.timeout(180)]

SHOP = f"""\
services:
  web:
    image: {IMAGE}
    command: [sh, -c, "mkdir -p /tmp/w; echo VERSION > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; {WAITS}"]
    ports: ["127.0.0.1::8080"]
    deploy: {{replicas: 2}}
    restart: unless-stopped
    depends_on: [api]
  api:
    image: {IMAGE}
    command: [sh, -c, "cat /run/secrets/token > /tmp/seen; {WAITS}"]
    depends_on: {{db: {{condition: service_healthy}}}}
    secrets: [token]
    restart: always
  db:
    image: {IMAGE}
    command: [sh, -c, "touch /data/ready; {WAITS}"]
    volumes: [data:/data]
    healthcheck: {{test: [CMD, ls, /data/ready], interval: 500ms, retries: 5}}
    restart: always
secrets: {{token: {{content: s3cret}}}}
volumes: {{data: }}
""".replace("content: s3cret", "environment: TOKEN")
RUNNING = wpb.WORKLOAD_STATE_RUNNING


async def became(stub: pb_grpc.EngineServiceStub, workload: str, state: int) -> None:
    """Wait for it."""
    async with asyncio.timeout(SECONDS):
        while await state_of(stub, workload) != state:
            await asyncio.sleep(0.1)


async def answer(stub: pb_grpc.EngineServiceStub, workload: str) -> str:
    """What each of its ports says."""
    found = (await stub.GetWorkload(pb.GetWorkloadRequest(workload_id=workload), timeout=SECONDS)).workload
    said = set()
    for port in found.ports:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.host_port)
        writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
        said.add((await reader.read()).decode().split("\r\n\r\n")[-1].split("\n\n")[-1].strip())
        writer.close()
    assert len(said) == 1, (said, found)
    return said.pop()


def shop(workload: str, *, version: str = "one", replicas: int = 2) -> pb.DeployWorkloadRequest:
    """A request to deploy it."""
    text = SHOP.replace("VERSION", version).replace("replicas: 2", f"replicas: {replicas}")
    request = deploying(workload, text)
    request.config.env["TOKEN"] = "s3cret"
    return request


def by_service(machine: ComposeMachine, workload: str) -> dict[str, set[str]]:
    """The ids of its containers."""
    found: dict[str, set[str]] = {}
    for each in machine.containers(f"{LABEL_WORKLOAD_ID}={workload}"):
        found.setdefault(each["Config"]["Labels"]["com.docker.compose.service"], set()).add(each["Id"])
    return found


async def test_a_shop_lives_through_changes_stops_and_deaths(machine: ComposeMachine, node_id: str) -> None:
    """Replicas and one service change, it stops and starts, engine and backend are killed; then nothing is left."""
    before, workload = machine.objects(), f"beemesh-shop-{node_id[:8]}"
    get = pb.GetWorkloadRequest(workload_id=workload)
    with short_directory() as directory:
        async with engine(machine, directory, node_id) as (stub, process):
            await stub.DeployWorkload(shop(workload), timeout=SECONDS)
            await became(stub, workload, RUNNING)
            assert await answer(stub, workload) == "one"
            first = by_service(machine, workload)
            assert {name: len(each) for name, each in first.items()} == {"web": 2, "api": 1, "db": 1}
            await stub.DeployWorkload(shop(workload, replicas=3), timeout=SECONDS)
            grown = by_service(machine, workload)
            assert (len(grown["web"]), first["web"] < grown["web"], grown["db"]) == (3, True, first["db"])
            await stub.DeployWorkload(shop(workload, version="two", replicas=1), timeout=SECONDS)
            changed = by_service(machine, workload)
            assert (len(changed["web"]), changed["web"] & grown["web"]) == (1, set())
            assert (changed["api"], changed["db"]) == (first["api"], first["db"])
            await became(stub, workload, RUNNING)
            assert await answer(stub, workload) == "two"
            await stub.StopWorkload(pb.StopWorkloadRequest(workload_id=workload), timeout=SECONDS)
            await became(stub, workload, wpb.WORKLOAD_STATE_STOPPED)
            os.kill(process.pid, signal.SIGKILL)
        async with engine(machine, directory, node_id) as (stub, process):
            await became(stub, workload, wpb.WORKLOAD_STATE_STOPPED)
            await asyncio.sleep(2.0)  # nobody starts it
            assert not any(each["State"]["Running"] for each in machine.containers(f"{LABEL_WORKLOAD_ID}={workload}"))
            await stub.StartWorkload(pb.StartWorkloadRequest(workload_id=workload), timeout=SECONDS)
            await became(stub, workload, RUNNING)
            assert by_service(machine, workload) == changed
            machine.kill()
            os.kill(process.pid, signal.SIGKILL)
        machine.start()
        async with engine(machine, directory, node_id) as (stub, _):
            await became(stub, workload, RUNNING)
            assert await answer(stub, workload) == "two"
            (db,) = [each for each in (await stub.GetWorkload(get)).workload.components if each.display_name == "db"]
            assert db.ready
            assert by_service(machine, workload) == changed
            request = pb.RemoveWorkloadRequest(workload_id=workload, remove_volumes=True)
            await stub.RemoveWorkload(request, timeout=SECONDS)
            assert machine.objects() == before
    assert processes_of(changed) == []


def processes_of(containers: dict[str, set[str]]) -> list[str]:
    """Whatever still runs for one of these."""
    names = [name.encode() for each in containers.values() for name in each]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if any(name in words for name in names):
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


async def test_a_container_that_was_taken_away_is_put_back(machine: ComposeMachine, node_id: str) -> None:
    """It is seen as lost, and the same deployment once more makes it anew; the others keep theirs."""
    workload = f"beemesh-shop-{node_id[:8]}"
    with short_directory() as directory:
        async with engine(machine, directory, node_id) as (stub, _):
            await stub.DeployWorkload(shop(workload), timeout=SECONDS)
            await became(stub, workload, RUNNING)
            whole = by_service(machine, workload)
            machine.remove(min(whole["web"]))
            await became(stub, workload, wpb.WORKLOAD_STATE_DEGRADED)
            await stub.DeployWorkload(shop(workload), timeout=SECONDS)
            await became(stub, workload, RUNNING)
            again = by_service(machine, workload)
            assert (len(again["web"]), again["web"] & whole["web"]) == (2, whole["web"] - {min(whole["web"])})
            assert (again["api"], again["db"]) == (whole["api"], whole["db"])
            request = pb.RemoveWorkloadRequest(workload_id=workload, remove_volumes=True)
            await stub.RemoveWorkload(request, timeout=SECONDS)


async def test_what_ends_is_started_again_and_what_is_stopped_is_not(machine: ComposeMachine, node_id: str) -> None:
    """A container that crashes again and again counts its restarts, until it is stopped in the middle of that."""
    text = (
        'services:\n  restless: {image: IMAGE, command: [sh, -c, "sleep 0.3; exit 3"], restart: unless-stopped}\n'
        '  steady: {image: IMAGE, command: [sh, -c, "WAITS"], restart: always}\n'
    )
    mine = spec(node_id, text)
    async with machine.engine(node_id) as engine:
        await engine.create(mine)

        async def restarted() -> bool:
            return (await components(engine, mine))["restless-0"].restart_count >= 3

        await until(restarted)
        await engine.stop(mine.workload_id, grace_seconds=1.0)
        stopped = await components(engine, mine)
        await asyncio.sleep(2.0)
        assert await components(engine, mine) == stopped
        assert {each.state for each in stopped.values()} <= {WorkloadState.FAILED, WorkloadState.SUCCEEDED}
        await remove(engine, mine)


async def test_health_checks_follow_what_they_find(machine: ComposeMachine, node_id: str) -> None:
    """Ready while it is well, Unhealthy when not, and well again; one that hangs is ended, and counts as a failure."""
    text = """\
services:
  web:
    image: IMAGE
    command: [sh, -c, "echo yes > /well; WAITS"]
    healthcheck: {test: [CMD-SHELL, 'test "$$(cat /well)" = yes'], interval: 300ms, retries: 2}
  hung:
    image: IMAGE
    command: [sh, -c, "WAITS"]
    healthcheck: {test: [CMD, sleep, "1234"], interval: 300ms, timeout: 500ms, retries: 2}
"""
    mine = spec(node_id, text)
    async with machine.engine(node_id) as engine:
        await engine.create(mine)

        async def is_(name: str, ready: bool | None, reason: str) -> bool:
            found = (await components(engine, mine))[f"{name}-0"]
            return (found.ready, found.reason) == (ready, reason)

        await until(lambda: is_("web", True, ""))
        await said(engine, mine, "web", "echo no > /well")
        await until(lambda: is_("web", False, "Unhealthy"))
        await said(engine, mine, "web", "echo yes > /well")
        await until(lambda: is_("web", True, ""))
        await until(lambda: is_("hung", False, "Unhealthy"))
    async with machine.engine(node_id) as engine:  # another life of it goes on with the checks
        await said(engine, mine, "web", "echo no > /well")
        await until(lambda: is_("web", False, "Unhealthy"))
        await remove(engine, mine)


async def test_an_update_that_changes_nothing_touches_nothing(machine: ComposeMachine, node_id: str) -> None:
    """With networks, volumes and secrets; the containers are the same as before."""
    text = (
        'services:\n  web:\n    image: IMAGE\n    command: [sh, -c, "WAITS"]\n    networks: [front, back]\n'
        "    volumes: [data:/d, /scratch]\n    secrets: [token]\n"
        '  db: {image: IMAGE, command: [sh, -c, "WAITS"], networks: [back], ulimits: {nofile: 1000}}\n'
        "networks: {front: , back: }\nvolumes: {data: }\nsecrets: {token: {environment: TOKEN}}\n"
    )
    first = spec(node_id, text, env={"TOKEN": "x"})
    second = spec(node_id, text + "x-note: another\n", env={"TOKEN": "x"})
    async with machine.engine(node_id) as engine:
        await engine.create(first)
        before = await ids(engine, first)
        await engine.update(first, second, diff(first.manifest, first.config, second.manifest, second.config))
        assert await ids(engine, second) == before
        assert {each.state for each in (await seen(engine, second)).components} == {WorkloadState.RUNNING}
        await remove(engine, second)
