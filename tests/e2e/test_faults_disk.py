"""A disk that is full or read-only while a node runs: told by name, nothing untracked, well again by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode as Processes
from services.data_dir import faults
from services.errors import ResourceExhausted
from services.node.restore import restore
from services.rpc.errors import from_rpc_error
from tests.e2e.test_backup import apply as apply_to
from tests.e2e.test_backup import delete, manifest
from tests.e2e.test_two_nodes import containers, wait_for_podman
from tests.harness.disk import SmallDisk, small_disk
from tests.harness.errors import refusal
from tests.harness.node import LocalNode, local_node
from tests.harness.processes import short_directory
from tests.unit.node.test_node_backup import make_node, saved

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {beemesh.io/runtime-engine: mock}
spec:
  containers:
  - {name: main, image: "localhost/busybox:1"}
"""
ID = "pod-default-web"
HEALED_WITHIN = 15.0


@asynccontextmanager
async def node_with(place: str) -> AsyncIterator[tuple[LocalNode, SmallDisk]]:
    """A node whose directory `place` lies on a small disk of its own."""
    with short_directory() as directory, small_disk(directory / place) as disk:
        async with local_node(directory) as node:
            yield node, disk


async def apply(node: LocalNode, manifest: str = POD, *, seconds: float = 10.0) -> pb.ApplyManifestResponse:
    request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=manifest))
    answer: pb.ApplyManifestResponse = await node.orchestrator.ApplyManifest(request, timeout=seconds)
    return answer


async def get(node: LocalNode) -> pb.Deployment:
    answer: Any = await node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=ID), timeout=5)
    found: pb.Deployment = answer.deployment
    return found


async def running(node: LocalNode) -> list[str]:
    """The workloads that the backend has."""
    answer = await node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)
    return [item.workload_id for item in answer.workloads]


async def deploys(node: LocalNode) -> int:
    """How often the engine was told to deploy."""
    answer = await node.mock.ListMockCalls(mock_pb.ListMockCallsRequest(page_size=1000), timeout=5)
    return sum(call.method == "DeployWorkload" for call in answer.calls)


async def until(look: Callable[[], Awaitable[bool]], seconds: float = HEALED_WITHIN) -> None:
    async with asyncio.timeout(seconds):
        while not await look():
            await asyncio.sleep(0.05)


async def is_active(node: LocalNode) -> bool:
    return (await get(node)).state == pb.DEPLOYMENT_STATE_ACTIVE


async def test_a_full_disk_refuses_an_apply_before_anything_is_touched() -> None:
    """No room for the intent: RESOURCE_EXHAUSTED, no record and no call on an engine; with room again it is taken."""
    async with node_with("orchestrator") as (node, disk):
        disk.fill()
        error = await refusal(apply(node))
        assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        assert str(disk.directory) in error.metadata["path"]
        assert [item.subject for item in error.quota] == ["node:disk"]
        assert (await refusal(get(node))).reason == "DEPLOYMENT_NOT_FOUND"
        assert (await deploys(node), await running(node)) == (0, [])
        disk.free()
        assert (await apply(node)).deployment.state == pb.DEPLOYMENT_STATE_ACTIVE


async def test_a_disk_that_fills_in_mid_apply_is_told_and_what_runs_is_on_record() -> None:
    """Full after the intent is durable: who waits hears it at once, what was started is the record's, and it heals."""
    async with node_with("orchestrator") as (node, disk):
        slow = mock_pb.MockFault(method="DeployWorkload", delay=Duration(nanos=500_000_000), remaining=1)
        behavior = mock_pb.SetMockBehaviorRequest(faults=[slow], health=engine_pb.ENGINE_HEALTH_STATE_HEALTHY)
        await node.mock.SetMockBehavior(behavior, timeout=5)
        async with asyncio.TaskGroup() as tasks:
            refused = tasks.create_task(refusal(apply(node, seconds=60)))
            await until(lambda: _has(deploys(node)))
            disk.fill()
        error = refused.result()
        assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        assert (error.metadata["deployment"], error.metadata["state"]) == (f"deployments/{ID}", "DEGRADED")
        held = await get(node)
        assert (held.state, held.error.reason) == (pb.DEPLOYMENT_STATE_DEGRADED, "DISK_FULL")
        orphans = await node.orchestrator.ListOrphans(pb.ListOrphansRequest(), timeout=5)
        assert list(orphans.workloads) == []
        assert await running(node) == [held.instances[0].workload_id]
        disk.free()
        await until(lambda: is_active(node))
        assert await deploys(node) == 1


async def _has(count: Awaitable[int]) -> bool:
    return await count > 0


async def test_a_full_disk_of_the_engine_refuses_and_leaves_nothing() -> None:
    """No room for the engine's record: RESOURCE_EXHAUSTED, nothing started; with room again the same apply runs."""
    async with node_with("mock/workloads") as (node, disk):
        disk.fill()
        error = await refusal(apply(node))
        assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        assert error.metadata["deployment"] == f"deployments/{ID}"
        assert await running(node) == []
        disk.free()
        assert (await apply(node)).deployment.state == pb.DEPLOYMENT_STATE_ACTIVE
        assert len(await running(node)) == 1


async def test_a_full_disk_of_the_engine_keeps_what_runs() -> None:
    """No room for a new revision: refused, and the one before runs on as it was."""
    async with node_with("mock/workloads") as (node, disk):
        before = (await apply(node)).deployment.instances[0].workload.components[0].component_id
        disk.fill()
        assert (await refusal(apply(node, POD.replace("busybox:1", "busybox:2")))).reason == "DISK_FULL"
        listed = await node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)
        assert [item.components[0].component_id for item in listed.workloads] == [before]
        disk.free()
        assert (await apply(node, POD.replace("busybox:1", "busybox:2"))).deployment.state == pb.DEPLOYMENT_STATE_ACTIVE


async def test_a_full_disk_of_the_provider_delays_the_announcement_only() -> None:
    """No room for announcements: what is applied runs, and is announced once there is room."""
    async with node_with("provider") as (node, disk):
        disk.fill()
        assert (await apply(node)).deployment.state == pb.DEPLOYMENT_STATE_ACTIVE
        assert not (await get(node)).announced
        disk.free()

        async def announced() -> bool:
            return (await get(node)).announced

        await until(announced)


async def test_a_full_disk_of_the_registry_refuses_a_choice() -> None:
    """No room for an operator's choice: RESOURCE_EXHAUSTED, and nothing has changed."""
    async with node_with("registry") as (node, disk):
        disk.fill()
        cordon = registry_pb.CordonEngineRequest(engine_id="mock", cordoned=True)
        assert (await refusal(node.registry.CordonEngine(cordon, timeout=5))).reason == "DISK_FULL"
        engine = await node.registry.GetEngine(registry_pb.GetEngineRequest(engine_id="mock"), timeout=5)
        assert not engine.engine.cordoned
        disk.free()
        await node.registry.CordonEngine(cordon, timeout=5)


async def test_a_disk_that_becomes_read_only_is_told_and_waited_out() -> None:
    """No record can be written: UNAVAILABLE by name, nothing started; writable again, it runs by itself."""
    async with node_with("mock/workloads") as (node, disk):
        disk.read_only(True)
        error = await refusal(apply(node))
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "DATA_DIR_READ_ONLY")
        assert str(disk.directory) in error.message
        assert await running(node) == []
        disk.read_only(False)
        await until(lambda: is_active(node))


def test_a_restore_that_finds_no_room_changes_nothing(tmp_path: Path) -> None:
    """On a full disk a restore ends with DISK_FULL and leaves no trace, and with room it can be repeated."""
    make_node(tmp_path / "data")
    archive = saved(tmp_path / "data")
    with small_disk(tmp_path / "disk") as disk:
        disk.fill()
        with pytest.raises(ResourceExhausted) as caught:
            restore(archive, disk.directory, force=True, stamp="now")
        assert caught.value.reason == "DISK_FULL"
        assert {path.name for path in disk.directory.iterdir()} == {"ballast", "node.lock"}
        disk.free()
        restore(archive, disk.directory, force=False, stamp="now")
        assert (disk.directory / "provider" / "node.key").exists()


def test_what_sqlite_calls_an_error_of_the_disk_is_told_as_what_it_is(tmp_path: Path) -> None:
    """Where SQLite says no more than "disk I/O error", the disk itself is asked: read-only, full, or neither."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    with small_disk(tmp_path / "disk") as disk:

        def told() -> str:
            return faults.of_database(error, disk.directory / "x.db", without="").reason

        assert told() == "STORE_ERROR"
        disk.fill()
        assert told() == "DISK_FULL"
        disk.read_only(True)
        assert told() == "DATA_DIR_READ_ONLY"


@pytest.mark.podman
@pytest.mark.usefixtures("podman_image")
def test_on_a_full_disk_podman_has_no_pod_that_no_record_knows(start_node: Callable[..., Processes]) -> None:
    """On podman: refused before anything is made; with room again the same apply runs, and no restart was needed."""
    running_node = start_node("podman")
    running_node.stop()
    records = running_node.data_dir / "engine-podman" / "workloads"
    records.rmdir()
    with small_disk(records) as disk:
        running_node.start()
        with Client(running_node.socket) as client:
            wait_for_podman(client)
            disk.fill()
            with pytest.raises(grpc.RpcError) as caught:
                apply_to(client, manifest("web", "podman"))
            call: Any = caught.value  # the error of a synchronous call is the call, too
            error = from_rpc_error(call)
            assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
            assert containers(running_node.node_id()) == {}
            assert podman_state.purge(running_node.node_id()) == []
            disk.free()
            apply_to(client, manifest("web", "podman"))
            delete(client, "web")
        running_node.stop()


def test_the_small_disk_is_gone_after_a_test() -> None:
    """What these tests mount is unmounted."""
    with short_directory() as directory, small_disk(directory / "disk") as disk:
        assert Path(disk.directory).is_mount()
    assert "/disk tmpfs" not in "\n".join(
        line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line
    )
