"""On a real podman: what an update in place touches, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from services.engines.engine import Component, Config, Observation, Spec, WorkloadState
from services.engines.podman.engine import PodmanEngine
from services.errors import FailedPrecondition
from services.identity import Ownership
from services.manifests import parse
from tests.harness.podman import IMAGE, PodmanMachine
from tests.integration.podman.workloads import FOREVER, all_in, container, destroy, engine_on, spec, until

pytestmark = [pytest.mark.podman, pytest.mark.timeout(90)]

TWO = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: one}}
spec:
  replicas: {one}
  selector: {{matchLabels: {{app: one}}}}
  template:
    metadata: {{labels: {{app: one}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - {{name: main, image: {image}, command: [sh, -c, "{script}"], volumeMounts: [{{name: tmp, mountPath: /tmp}}]}}
      volumes: [{{name: tmp, emptyDir: {{}}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: two}}
spec:
  replicas: {two}
  selector: {{matchLabels: {{app: two}}}}
  template:
    metadata: {{labels: {{app: two}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - {{name: main, image: {image}, command: [sh, -c, "{script}"]}}
"""

CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"""


def deployments(base: Spec, one: int, two: int) -> Spec:
    """Two Deployments of so many replicas each."""
    text = TWO.format(one=one, two=two, image=IMAGE, script=FOREVER)
    owner = base.ownership
    revised = Ownership(
        node_id=owner.node_id,
        deployment_id=owner.deployment_id,
        workload_id=owner.workload_id,
        manifest_hash=f"sha256:{one:032}{two:032}",
    )
    return Spec(ownership=revised, manifest=parse(text), config=Config())


async def ids(engine: PodmanEngine, workload: str) -> dict[str, str]:
    """The containers' ids by pod."""
    found = await until(engine, workload, all_in(WorkloadState.RUNNING), "all run")
    pods: Sequence[str] = found.details["pods"]  # type: ignore[assignment]  # JSON-shaped
    return dict(zip(pods, (component.component_id for component in found.components), strict=True))


async def test_each_deployment_of_a_manifest_scales_by_itself(machine: PodmanMachine, node_id: str) -> None:
    """Replicas that stay keep their containers; what a removed one had for itself goes with it."""
    base = spec(node_id, container(FOREVER))
    workload = base.workload_id
    async with engine_on(machine, node_id) as engine:
        wanted = deployments(base, 2, 1)
        await engine.create(wanted)
        before = await ids(engine, workload)
        assert len(before) == 3
        for one, two in ((1, 2), (3, 1), (1, 1)):
            after = deployments(base, one, two)
            await engine.update(wanted, after, ())
            wanted, now = after, await ids(engine, workload)
            assert len(now) == one + two
            assert all(now[pod] == before[pod] for pod in now.keys() & before.keys())
            before = now
            scratch = {name for name in machine.objects() if ".scratch." in name and workload in name}
            assert len(scratch) == one
        await destroy(engine, workload, force=True)
        assert not [name for name in machine.objects() if workload in name]


async def test_an_update_that_fails_leaves_what_was_there(machine: PodmanMachine, node_id: str) -> None:
    """The replica that could not be made is gone again; the others were not touched."""
    once = container("mkdir /data/taken", name="init", volumeMounts=[{"name": "data", "mountPath": "/data"}])
    fields: dict[str, Any] = {
        "initContainers": [once],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    good, fails = (
        with_claim(spec(node_id, container(FOREVER), config=Config(replicas=replicas), **fields)) for replicas in (1, 3)
    )
    async with engine_on(machine, node_id) as engine:
        await engine.create(good)
        before = await engine.observe_one(good.workload_id)
        with pytest.raises(FailedPrecondition) as caught:
            await engine.update(good, fails, ())
        assert caught.value.reason == "INIT_FAILED"
        assert "leftovers" not in caught.value.metadata
        after = await engine.observe_one(good.workload_id)
        assert components(after) == components(before)
        await engine.destroy(good.workload_id, grace_seconds=None, force=True, remove_volumes=True)
        assert not [name for name in machine.objects() if good.workload_id in name]


async def test_an_update_that_was_cut_is_finished_by_another(machine: PodmanMachine, node_id: str) -> None:
    """Wherever it was cut: three replicas run in the end, the first of them untouched."""
    one = spec(node_id, container(FOREVER), config=Config(replicas=1))
    three = spec(node_id, container(FOREVER), config=Config(replicas=3))
    async with engine_on(machine, node_id) as engine:
        await engine.create(one)
        first = (await ids(engine, one.workload_id)).values()
        for delay in (0.05, 0.3, 0.6):
            task = asyncio.create_task(engine.update(one, three, ()))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.wait([task])
        await engine.update(one, three, ())
        now = await ids(engine, one.workload_id)
        assert (len(now), set(first) <= set(now.values())) == (3, True)
        await destroy(engine, one.workload_id, force=True)


def with_claim(wanted: Spec) -> Spec:
    """The same, with the claim that it mounts."""
    text = f"{wanted.manifest.text}\n---\n{CLAIM}"
    return Spec(ownership=wanted.ownership, manifest=parse(text), config=wanted.config)


def components(found: Observation | None) -> list[Component]:
    """What there is."""
    assert found is not None
    return list(found.components)
