"""Replicas, init containers, hooks and limits on a real podman."""

from __future__ import annotations

import asyncio

import pytest

from services.engines.engine import Component, Config, LogQuery, Role, WorkloadState
from services.engines.podman.engine import PodmanEngine
from services.errors import FailedPrecondition
from tests.harness.podman import IMAGE, PodmanMachine
from tests.integration.podman.workloads import (
    FOREVER,
    all_in,
    applied,
    container,
    destroy,
    engine_on,
    first_lines,
    inside,
    only,
    spec,
    texts,
    until,
)

pytestmark = [pytest.mark.podman, pytest.mark.timeout(60)]

DEPLOYMENT = f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      volumes: [{{name: scratch, emptyDir: {{}}}}, {{name: settings, configMap: {{name: settings}}}}]
      containers:
      - name: main
        image: {IMAGE}
        command: ["sh", "-c", "{FOREVER}"]
        volumeMounts: [{{name: scratch, mountPath: /scratch}}, {{name: settings, mountPath: /settings}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{mode: fast}}
"""
POD = f"""\
---
apiVersion: v1
kind: Pod
metadata: {{name: tool}}
spec:
  containers: [{{name: tool, image: {IMAGE}, command: ["sh", "-c", "{FOREVER}"]}}]
"""


async def parts(engine: PodmanEngine, workload: str) -> dict[tuple[str, int], Component]:
    """The components by name and replica."""
    found = await engine.observe_one(workload)
    return {(part.display_name, part.replica): part for part in (found.components if found else ())}


async def test_several_workloads_of_one_manifest_run_together(machine: PodmanMachine, node_id: str) -> None:
    """A Deployment and a Pod of one manifest are one workload with all their replicas, removed together."""
    before = machine.objects()
    wanted = applied(node_id, DEPLOYMENT + POD)
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        assert set(await parts(engine, wanted.workload_id)) == {("main", 0), ("main", 1), ("tool", 0)}
        await destroy(engine, wanted.workload_id)
    assert machine.objects() == before


async def test_scaling_leaves_the_other_replicas_alone(machine: PodmanMachine, node_id: str) -> None:
    """More and fewer replicas are made and ended; those that stay keep their container and its files."""
    before = machine.objects()
    async with engine_on(machine, node_id) as engine:
        old = applied(node_id, DEPLOYMENT)
        await engine.create(old)
        known = await parts(engine, old.workload_id)
        inside(machine, known["main", 0].component_id, "touch /scratch/mine")
        for replicas in (4, 1, 0, 2):
            new = applied(node_id, DEPLOYMENT, config=Config(replicas=replicas))
            await engine.update(old, new, ())
            now = await parts(engine, old.workload_id)
            assert set(now) == {("main", number) for number in range(replicas)}
            both = set(now) & set(known)
            assert {key: now[key].component_id for key in both} == {key: known[key].component_id for key in both}
            assert not replicas or inside(machine, now["main", 0].component_id, "cat /settings/mode") == "fast"
            old, known = new, now
        await destroy(engine, old.workload_id)
    assert machine.objects() == before


async def test_what_is_lost_of_a_workload_is_added_to_what_runs(machine: PodmanMachine, node_id: str) -> None:
    """A replica that somebody removed comes back, as does a container of another one; the third one runs on."""
    async with engine_on(machine, node_id) as engine:
        wanted = applied(node_id, DEPLOYMENT, config=Config(replicas=3))
        await engine.create(wanted)
        known = await parts(engine, wanted.workload_id)
        machine.podman("pod", "rm", "--force", "--time=0", f"{wanted.workload_id}-1")
        machine.podman("rm", "--force", "--time=0", known["main", 2].component_id)
        assert set(await parts(engine, wanted.workload_id)) == {("main", 0)}
        await engine.update(wanted, wanted, ())
        now = await parts(engine, wanted.workload_id)
        assert set(now) == set(known)
        assert now["main", 0] == known["main", 0]
        await destroy(engine, wanted.workload_id)


async def test_a_scaling_that_fails_takes_back_what_it_added(machine: PodmanMachine, node_id: str) -> None:
    """When a new replica cannot start, the new ones are gone again and the old ones run on untouched."""
    async with engine_on(machine, node_id) as engine:
        old = applied(node_id, DEPLOYMENT)
        await engine.create(old)
        known = await parts(engine, old.workload_id)
        machine.podman("pod", "create", f"{old.workload_id}-3")  # a stranger in the way
        with pytest.raises(Exception, match=r"exists|in use") as caught:
            await engine.update(old, applied(node_id, DEPLOYMENT, config=Config(replicas=4)), ())
        assert "leftovers" not in getattr(caught.value, "metadata", {})
        assert await parts(engine, old.workload_id) == known
        machine.podman("pod", "rm", f"{old.workload_id}-3")
        await destroy(engine, old.workload_id)


async def test_init_containers_run_to_their_end_one_by_one(machine: PodmanMachine, node_id: str) -> None:
    """Init containers run in their order before the others start, and are told as what they are."""
    first = container(
        "sleep 0.3; echo first >> /w/steps", name="first", volumeMounts=[{"name": "w", "mountPath": "/w"}]
    )
    then = container(
        "cat /w/steps; echo then >> /w/steps", name="then", volumeMounts=[{"name": "w", "mountPath": "/w"}]
    )
    main = container(f"cat /w/steps; {FOREVER}", volumeMounts=[{"name": "w", "mountPath": "/w"}])
    wanted = spec(node_id, main, initContainers=[first, then], volumes=[{"name": "w", "emptyDir": {}}])
    async with engine_on(machine, node_id) as engine:
        creating = asyncio.create_task(engine.create(wanted))
        await until(engine, wanted.workload_id, lambda seen: any(c.role is Role.INIT for c in seen.components), "inits")
        await creating
        known = await parts(engine, wanted.workload_id)
        told = {name: (part.role, part.state, part.restart_count) for (name, _), part in known.items()}
        assert told == {
            "first": (Role.INIT, WorkloadState.SUCCEEDED, 0),
            "then": (Role.INIT, WorkloadState.SUCCEEDED, 0),
            "main": (Role.MAIN, WorkloadState.RUNNING, 0),
        }
        query = LogQuery(component_id="main", follow=True)
        assert texts(await first_lines(engine, wanted.workload_id, 2, query)) == ["first", "then"]
        await destroy(engine, wanted.workload_id)


async def test_a_failing_init_container_fails_the_deploy_with_its_words(machine: PodmanMachine, node_id: str) -> None:
    """A failing init container is INIT_FAILED with its name, exit code and last lines; nothing is left."""
    before = machine.objects()
    bad = container("echo no database; exit 3", name="migrate")
    wanted = spec(node_id, container(FOREVER), initContainers=[bad])
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(FailedPrecondition, match=r"migrate.*exited with 3.*no database") as caught:
            await engine.create(wanted)
    assert caught.value.reason == "INIT_FAILED"
    assert (caught.value.metadata["container"], caught.value.metadata["exit_code"]) == ("migrate", "3")
    assert machine.objects() == before


async def test_hooks_run_after_the_start_and_before_the_end(machine: PodmanMachine, node_id: str) -> None:
    """The postStart hook runs in the container, and preStop before TERM, within the grace period."""
    hooked = container(
        "trap 'echo term; exit 0' TERM; while :; do test -e /tmp/h && cat /tmp/h && rm /tmp/h; sleep 0.05; done",
        lifecycle={
            "postStart": {"exec": {"command": ["sh", "-c", "echo started > /tmp/h"]}},
            "preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /tmp/h; sleep 0.5"]}},
        },
    )
    wanted = spec(node_id, hooked, terminationGracePeriodSeconds=10)
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        seen: list[str] = []
        started = asyncio.Event()

        async def follow() -> None:
            async for batch in engine.logs(wanted.workload_id, LogQuery(follow=True)):
                seen.extend(texts(batch))
                started.set()

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(follow())
            await started.wait()
            await engine.stop(wanted.workload_id, grace_seconds=None)
        assert seen == ["started", "stopping", "term"]
        await destroy(engine, wanted.workload_id)


async def test_a_failing_post_start_hook_fails_the_deploy(machine: PodmanMachine, node_id: str) -> None:
    """A container whose postStart hook fails does not count as started, and nothing is left."""
    before = machine.objects()
    hooked = container(FOREVER, lifecycle={"postStart": {"exec": {"command": ["sh", "-c", "echo broken; exit 2"]}}})
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(FailedPrecondition, match=r"postStart.*broken") as caught:
            await engine.create(spec(node_id, hooked))
    assert caught.value.reason == "START_FAILED"
    assert machine.objects() == before


async def test_too_much_memory_is_told_as_such(machine: PodmanMachine, node_id: str) -> None:
    """A container that takes more than its limit ends with 137, and the reason is OOMKilled."""
    greedy = container(
        "sleep 0.3; exec busybox dd if=/dev/zero of=/dev/null bs=100M count=1", resources={"limits": {"memory": "64Mi"}}
    )
    shot = container(FOREVER, name="shot", resources={"limits": {"memory": "64Mi"}})
    wanted = spec(node_id, greedy, shot, restartPolicy="Never")
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        machine.podman("kill", f"{wanted.workload_id}-0-shot")
        found = await until(
            engine, wanted.workload_id, lambda seen: all(part.exit_status for part in seen.components), "both ended"
        )
        await destroy(engine, wanted.workload_id)
    ended = {part.display_name: part for part in found.components}
    assert ended["main"].exit_status is not None
    assert (ended["main"].exit_status.exit_code, ended["main"].exit_status.oom_killed) == (137, True)
    assert ended["main"].reason == "OOMKilled"
    assert ended["shot"].exit_status is not None
    assert (ended["shot"].exit_status.exit_code, ended["shot"].exit_status.oom_killed) == (137, False)


async def test_a_hint_in_decimal_bytes_is_what_the_container_gets(machine: PodmanMachine, node_id: str) -> None:
    """The hint "4GB" is a limit of 4,000,000,000 bytes inside, but for the kernel's rounding to whole pages."""
    text = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: hinted, annotations: {{beemesh.io/resources.memory: "4GB"}}}}
spec:
  containers: [{{name: main, image: {IMAGE}, command: ["sh", "-c", "{FOREVER}"]}}]
"""
    wanted = applied(node_id, text)
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        component = only(await until(engine, wanted.workload_id, all_in(WorkloadState.RUNNING), "it runs"))
        (found,) = machine.listed("container", "inspect", component.component_id)
        kernel = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true"
        limit = int(inside(machine, component.component_id, kernel))
        await destroy(engine, wanted.workload_id)
    assert found["HostConfig"]["Memory"] == 4_000_000_000
    assert limit == 4_000_000_000 // 4096 * 4096
