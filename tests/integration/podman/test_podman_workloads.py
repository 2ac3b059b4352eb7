"""Pods on a real podman: they run, are seen as they are, and leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from services.engines.engine import Config, LogQuery, PortMapping, Resources, Role, WorkloadState
from services.engines.streams import closed_after
from services.errors import FailedPrecondition, ResourceExhausted
from tests.harness.podman import PodmanMachine
from tests.harness.ports import free_port
from tests.integration.podman.workloads import (
    FOREVER,
    all_in,
    container,
    destroy,
    engine_on,
    first_lines,
    only,
    spec,
    texts,
    until,
)

pytestmark = [pytest.mark.podman, pytest.mark.timeout(60)]


async def test_a_pod_runs_and_is_seen_and_is_gone_without_a_trace(machine: PodmanMachine, node_id: str) -> None:
    """A pod runs as its manifest says, is seen as it is, and is gone without a trace."""
    before, port = machine.objects(), free_port()
    wanted = spec(
        node_id,
        container(
            f"echo $(GREETING); hostname; echo $EXTRA; pwd; {FOREVER}",
            env=[{"name": "WHO", "value": "world"}, {"name": "GREETING", "value": "hello $(WHO)"}],
            workingDir="/tmp",
            ports=[{"containerPort": 80, "hostPort": port, "hostIP": "127.0.0.1"}, {"containerPort": 81}],
        ),
        config=Config(env={"EXTRA": "more"}),
    )
    async with engine_on(machine, node_id) as engine:
        began = time.time()
        await engine.create(wanted)
        found = await engine.observe_one(wanted.workload_id)
        component = only(found)
        assert found is not None
        assert (component.display_name, component.state) == ("main", WorkloadState.RUNNING)
        assert (component.role, component.replica, component.restart_count) == (Role.MAIN, 0, 0)
        assert component.start_time is not None
        assert began - 1 < component.start_time < time.time() + 1
        assert found.create_time is not None
        assert began - 1 < found.create_time < time.time() + 1
        assert found.ports == (PortMapping(container_port=80, host_port=port, host_ip="127.0.0.1", protocol="TCP"),)
        assert found.ownership.labels() == wanted.ownership.labels()
        lines = await first_lines(engine, wanted.workload_id, 4)
        assert texts(lines) == ["hello world", "web", "more", "/tmp"]
        await destroy(engine, wanted.workload_id)
        assert await engine.observe_one(wanted.workload_id) is None
        await destroy(engine, wanted.workload_id)
    assert machine.objects() == before


async def test_an_image_that_is_not_here_is_named_in_full(machine: PodmanMachine, node_id: str) -> None:
    """An image that may not be pulled and is not here is IMAGE_NOT_FOUND with its full reference, and nothing stays."""
    before = machine.objects()
    wanted = spec(node_id, {"name": "main", "image": "nonesuch", "imagePullPolicy": "Never"})
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(FailedPrecondition) as caught:
            await engine.create(wanted)
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    assert caught.value.metadata["image"] == "docker.io/library/nonesuch:latest"
    assert "docker.io/library/nonesuch:latest" in caught.value.message
    assert machine.objects() == before


async def test_an_image_whose_registry_is_unreachable_is_not_found_either(machine: PodmanMachine, node_id: str) -> None:
    """An image whose registry cannot be reached is IMAGE_NOT_FOUND, with podman's words and a delay to retry after."""
    wanted = spec(node_id, {"name": "main", "image": "127.0.0.1:1/team/app:2"})
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(FailedPrecondition, match="connection refused") as caught:
            await engine.create(wanted)
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    assert caught.value.metadata == {"image": "127.0.0.1:1/team/app:2", "registry": "unreachable"}
    assert caught.value.retry_after


async def test_a_taken_port_is_told_and_nothing_stays(machine: PodmanMachine, node_id: str) -> None:
    """A host port that somebody listens on is PORT_IN_USE with the port, and nothing of the pod stays."""
    before = machine.objects()
    listener = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    wanted = spec(node_id, container(FOREVER, ports=[{"containerPort": 80, "hostPort": port, "hostIP": "127.0.0.1"}]))
    async with listener, engine_on(machine, node_id) as engine:
        with pytest.raises(FailedPrecondition) as caught:
            await engine.create(wanted)
    assert caught.value.reason == "PORT_IN_USE"
    assert caught.value.metadata["host_port"] == str(port)
    assert "leftovers" not in caught.value.metadata
    assert machine.objects() == before


async def test_a_second_container_that_cannot_start_takes_the_first_along(machine: PodmanMachine, node_id: str) -> None:
    """When the second container cannot start, the first one is removed with it."""
    before = machine.objects()
    wanted = spec(node_id, container(FOREVER), container("true", name="bad", command=["/nonesuch"]))
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(FailedPrecondition, match="/nonesuch") as caught:
            await engine.create(wanted)
        assert await engine.observe() == {}
    assert caught.value.reason == "START_FAILED"
    assert machine.objects() == before


async def test_too_little_memory_is_resource_exhausted(machine: PodmanMachine, node_id: str) -> None:
    """A memory limit below what a start takes is RESOURCE_EXHAUSTED, and nothing stays."""
    before = machine.objects()
    wanted = spec(node_id, container(FOREVER, resources={"limits": {"memory": "64Ki"}}))
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(ResourceExhausted):
            await engine.create(wanted)
    assert machine.objects() == before


async def test_how_containers_ended_is_told(machine: PodmanMachine, node_id: str) -> None:
    """Containers that ended tell their exit codes and times; a pod that restarts on failure tells how often."""
    wanted = spec(node_id, container("exit 0", name="good"), container("exit 7", name="bad"), restartPolicy="Never")
    restarting = spec(node_id, container("sleep 0.2; exit 3"), name="loop")
    async with engine_on(machine, node_id) as engine:
        await asyncio.gather(engine.create(wanted), engine.create(restarting))
        found = await until(
            engine, wanted.workload_id, lambda seen: all(part.exit_status for part in seen.components), "both ended"
        )
        ended = {part.display_name: part for part in found.components}
        assert {name: part.state for name, part in ended.items()} == {
            "good": WorkloadState.SUCCEEDED,
            "bad": WorkloadState.FAILED,
        }
        assert ended["bad"].exit_status is not None
        assert ended["bad"].exit_status.exit_code == 7
        assert ended["bad"].exit_status.finish_time is not None
        assert abs(ended["bad"].exit_status.finish_time - time.time()) < 30
        await until(engine, restarting.workload_id, lambda seen: only(seen).restart_count >= 1, "restarted")
        for workload in (wanted, restarting):
            await destroy(engine, workload.workload_id, grace=1)
        assert await engine.observe() == {}


async def test_a_memory_limit_is_enforced(machine: PodmanMachine, node_id: str) -> None:
    """A container that takes more memory than its limit is killed, and only it."""
    greedy = container("a=x; while :; do a=$a$a; done", name="greedy", resources={"limits": {"memory": "16Mi"}})
    wanted = spec(node_id, greedy, container(FOREVER, name="modest"), restartPolicy="Never")
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        found = await until(
            engine, wanted.workload_id, lambda seen: any(part.exit_status for part in seen.components), "one was killed"
        )
        parts = {part.display_name: part for part in found.components}
        await destroy(engine, wanted.workload_id)
    assert parts["greedy"].state is WorkloadState.FAILED
    assert parts["greedy"].exit_status is not None
    assert parts["greedy"].exit_status.exit_code == 137
    assert parts["modest"].state is WorkloadState.RUNNING


async def test_limits_are_the_manifests_under_the_callers_ceiling(machine: PodmanMachine, node_id: str) -> None:
    """Limits reach the container, and the caller's ceiling counts where the manifest has none."""
    wanted = spec(
        node_id,
        container(FOREVER, name="own", resources={"limits": {"cpu": "250m", "memory": "32Mi"}}),
        container(FOREVER, name="rest"),
        config=Config(resources=Resources(cpu_cores=1.0, memory_bytes=96 << 20)),
    )
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        found = await engine.observe_one(wanted.workload_id)
        assert found is not None
        ids = [part.component_id for part in sorted(found.components, key=lambda part: part.display_name)]
        hosts = [entry["HostConfig"] for entry in machine.listed("container", "inspect", *ids)]
        await destroy(engine, wanted.workload_id, force=True)
    assert [host["Memory"] for host in hosts] == [32 << 20, 64 << 20]
    assert [host["CpuQuota"] / host["CpuPeriod"] for host in hosts] == [0.25, 0.75]


async def test_replicas_are_pods_of_one_workload(machine: PodmanMachine, node_id: str) -> None:
    """Two replicas are two pods of one workload, started and removed together."""
    wanted = spec(node_id, container(FOREVER), config=Config(replicas=2))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        found = await until(engine, wanted.workload_id, all_in(WorkloadState.RUNNING), "both run")
        assert [part.replica for part in found.components] == [0, 1]
        assert found.details["pods"] == [f"{wanted.workload_id}-0", f"{wanted.workload_id}-1"]
        await destroy(engine, wanted.workload_id)
        assert await engine.observe() == {}


async def test_nodes_on_one_podman_see_only_their_own(machine: PodmanMachine, node_id: str) -> None:
    """Two nodes on one podman may run the same manifest, and neither sees nor removes what is the other's."""
    other_node = node_id[::-1]
    mine, theirs = spec(node_id, container(FOREVER)), spec(other_node, container(FOREVER))
    async with engine_on(machine, node_id) as engine, engine_on(machine, other_node) as other:
        await asyncio.gather(engine.create(mine), other.create(theirs))
        assert set(await engine.observe()) == {mine.workload_id}
        assert set(await other.observe()) == {theirs.workload_id}
        await destroy(engine, theirs.workload_id, force=True)
        assert (await engine.probe()).reason in ("", "CANARY_SLOW")
        assert only(await other.observe_one(theirs.workload_id)).state is WorkloadState.RUNNING
        await destroy(engine, mine.workload_id)
        assert set(await other.observe()) == {theirs.workload_id}
        await destroy(other, theirs.workload_id)


async def test_work_done_on_term_within_the_grace_period_is_finished(machine: PodmanMachine, node_id: str) -> None:
    """What a container does on TERM within its grace period is finished, and our part takes less than a second."""
    wanted = spec(
        node_id,
        container("trap 'sleep 1; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"),
        terminationGracePeriodSeconds=20,
    )
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        seen: list[str] = []
        up = asyncio.Event()

        async def follow() -> None:
            async for batch in engine.logs(wanted.workload_id, LogQuery(follow=True)):
                seen.extend(texts(batch))
                up.set()

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(follow())
            await up.wait()
            took = await destroy(engine, wanted.workload_id)
    assert seen == ["up", "saved"]
    assert 1.0 <= took < 2.5  # the goal is 2.0; half a second is for a busy machine


async def test_who_ignores_term_is_killed_when_the_grace_period_ends(machine: PodmanMachine, node_id: str) -> None:
    """A container that ignores TERM is killed when its grace period ends, and with force at once."""
    deaf = spec(node_id, container("sleep 1000"), terminationGracePeriodSeconds=1)
    stubborn = spec(node_id, container("sleep 1000"), name="stubborn", terminationGracePeriodSeconds=300)
    async with engine_on(machine, node_id) as engine:
        await asyncio.gather(engine.create(deaf), engine.create(stubborn))
        assert 1.0 <= await destroy(engine, deaf.workload_id) < 3.0
        assert await destroy(engine, stubborn.workload_id, force=True) < 2.0
        assert await engine.observe() == {}


async def test_others_are_not_held_up_by_a_long_grace_period(machine: PodmanMachine, node_id: str) -> None:
    """While one workload uses its grace period, all others can be observed."""
    deaf = spec(node_id, container("sleep 1000"), terminationGracePeriodSeconds=3)
    async with engine_on(machine, node_id) as engine:
        await engine.create(deaf)
        ending = asyncio.create_task(destroy(engine, deaf.workload_id))
        slowest = 0.0
        while not ending.done():
            began = time.monotonic()
            await engine.observe()
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.05)
        assert await ending >= 3.0
    assert slowest < 1.5


async def test_a_create_that_is_cancelled_leaves_nothing(machine: PodmanMachine, node_id: str) -> None:
    """Cancelling a create in the midst of the play leaves nothing behind."""
    before = machine.objects()
    wanted = spec(node_id, *(container(FOREVER, name=f"c{number}") for number in range(3)))
    async with engine_on(machine, node_id) as engine:
        creating = asyncio.create_task(engine.create(wanted))
        while not await engine.observe():
            await asyncio.sleep(0.01)
        creating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await creating
        assert creating.cancelled()
        assert await engine.observe() == {}
    assert machine.objects() == before


async def test_anonymous_volumes_of_an_image_go_with_the_pod(machine: PodmanMachine, node_id: str) -> None:
    """The anonymous volume that an image asks for is removed with the pod."""
    before = machine.objects()
    machine.make_image("localhost/with-volume:1", changes=["VOLUME /data"])
    wanted = spec(node_id, container(FOREVER, image="localhost/with-volume:1"))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        assert any(item.startswith("volume ") for item in machine.objects() - before)
        await destroy(engine, wanted.workload_id)
    assert machine.objects() == before


async def test_changes_are_heard(machine: PodmanMachine, node_id: str) -> None:
    """The stream of changes says something when a container of this node starts."""
    wanted = spec(node_id, container(FOREVER))
    async with engine_on(machine, node_id) as engine, closed_after(engine.changes()) as changes:
        async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
            creating = tasks.create_task(engine.create(wanted))
            await anext(changes)
            await creating
        await destroy(engine, wanted.workload_id, force=True)
