"""Claims, files and parts of volumes on a real podman, and that two workloads share none of them."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from services.engines.engine import Component
from services.engines.podman.engine import PodmanEngine
from services.engines.pods.filling import Made
from services.errors import AlreadyExists, FailedPrecondition
from tests.harness.podman import IMAGE, PodmanMachine
from tests.integration.podman.workloads import FOREVER, applied, destroy, engine_on, inside, only

pytestmark = [pytest.mark.podman, pytest.mark.timeout(60)]

APP = f"""\
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{mode: fast, "deep.conf": a}}
---
apiVersion: v1
kind: Secret
metadata: {{name: login}}
stringData: {{token: hush-hush-9471}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      securityContext: {{fsGroup: 2000}}
      volumes:
      - {{name: settings, configMap: {{name: settings, items: [{{key: mode, path: a/b, mode: 0400}}]}}}}
      - {{name: login, secret: {{secretName: login}}}}
      - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
      - {{name: scratch, emptyDir: {{}}}}
      containers:
      - name: main
        image: {IMAGE}
        command: ["sh", "-c", "{FOREVER}"]
        env: [{{name: TOKEN, valueFrom: {{secretKeyRef: {{name: login, key: token}}}}}}]
        volumeMounts:
        - {{name: settings, mountPath: /settings}}
        - {{name: login, mountPath: /login}}
        - {{name: data, mountPath: /data}}
        - {{name: scratch, mountPath: /scratch}}
"""
CLAIMED = APP.replace("  replicas: 2\n", "  replicas: 1\n")
PART = CLAIMED.replace("{name: data, mountPath: /data}", "{name: data, mountPath: /data, subPath: inner/most}")


async def components(engine: PodmanEngine, workload: str) -> list[Component]:
    """What runs of it."""
    found = await engine.observe_one(workload)
    assert found is not None
    return list(found.components)


async def test_two_workloads_from_one_file_share_nothing(machine: PodmanMachine, node_id: str) -> None:
    """Two workloads of the same file have names and volumes of their own; one's end leaves the other's files alone."""
    before = machine.objects()
    one, two = applied(node_id, APP, deployment="one"), applied(node_id, APP, deployment="two")
    async with engine_on(machine, node_id) as engine:
        await asyncio.gather(engine.create(one), engine.create(two))
        first, other = await components(engine, one.workload_id), await components(engine, two.workload_id)
        assert len(first) == len(other) == 2
        inside(machine, first[0].component_id, "echo mine > /data/x; echo mine > /scratch/x")
        assert inside(machine, first[1].component_id, "cat /data/x; ls /scratch") == "mine"
        assert inside(machine, other[0].component_id, "ls /data /scratch | busybox grep -c x || true") == "0"
        await engine.destroy(one.workload_id, grace_seconds=None, force=True, remove_volumes=True)
        assert inside(machine, other[0].component_id, "cat /settings/a/b; test -d /data && echo there") == "fastthere"
        await engine.destroy(two.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert machine.objects() == before


async def test_claims_outlive_their_workload_until_their_end_is_asked_for(machine: PodmanMachine, node_id: str) -> None:
    """A claim stays when its workload goes, has its data when it comes again, and goes when that is asked for."""
    before = machine.objects()
    wanted = applied(node_id, CLAIMED)
    claim = f"volume {wanted.workload_id}.claim.data"
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        inside(machine, only(await engine.observe_one(wanted.workload_id)).component_id, "echo kept > /data/x")
        await destroy(engine, wanted.workload_id)
        assert machine.objects() - before == {claim}
        assert await engine.observe() == {}
        await engine.create(wanted)
        container = only(await engine.observe_one(wanted.workload_id)).component_id
        assert inside(machine, container, "cat /data/x") == "kept"
        await engine.destroy(wanted.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert machine.objects() == before


async def test_a_failed_create_takes_new_claims_along_and_leaves_old_ones(machine: PodmanMachine, node_id: str) -> None:
    """What fails to start leaves no claim that it made, and every claim that was there."""
    before = machine.objects()
    broken = applied(node_id, CLAIMED.replace('["sh", "-c"', '["nonesuch", "-c"'))
    wanted = applied(node_id, CLAIMED)
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(FailedPrecondition):
            await engine.create(broken)
        assert machine.objects() == before
        await engine.create(wanted)
        await destroy(engine, wanted.workload_id)
        kept = machine.objects()
        with pytest.raises(FailedPrecondition):
            await engine.create(broken)
        assert machine.objects() == kept
        await engine.destroy(wanted.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert machine.objects() == before


@pytest.mark.parametrize("kind", ["pod", "volume"])
async def test_a_stranger_of_the_same_name_is_not_touched(machine: PodmanMachine, node_id: str, kind: str) -> None:
    """A stranger's pod or volume of a name that we want is NAME_IN_USE, stays as it is, and nothing of ours stays."""
    wanted = applied(node_id, CLAIMED)
    name = f"{wanted.workload_id}-0" if kind == "pod" else f"{wanted.workload_id}.claim.data"
    machine.podman(kind, "create", name)
    before = machine.objects()
    async with engine_on(machine, node_id) as engine:
        with pytest.raises(AlreadyExists) as caught:
            await engine.create(wanted)
        assert caught.value.reason == "NAME_IN_USE"
        await engine.destroy(wanted.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert machine.objects() == before
    machine.podman(kind, "rm", name)


@pytest.mark.parametrize("in_place", [True, False])
async def test_files_have_their_modes_and_owners_however_they_got_there(
    machine: PodmanMachine, node_id: str, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and directories are the same, written in place or through podman where its storage is out of reach."""
    if not in_place:
        monkeypatch.setattr(Made, "in_reach", False)
    before = machine.objects()
    wanted = applied(node_id, CLAIMED)
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        container = only(await engine.observe_one(wanted.workload_id)).component_id
        told = inside(
            machine,
            container,
            "cd /; busybox stat -c '%n %a %u:%g' settings/a settings/a/b login/token data scratch; cat settings/a/b",
        )
        await engine.destroy(wanted.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert told.splitlines() == [
        "settings/a 2755 0:2000",
        "settings/a/b 440 0:2000",
        "login/token 644 0:2000",
        "data 2777 0:2000",
        "scratch 2777 0:2000",
        "fast",
    ]
    assert machine.objects() == before


async def test_a_link_in_place_of_a_part_is_not_followed(machine: PodmanMachine, node_id: str) -> None:
    """A part of a claim that an earlier life replaced by a link is refused: the link would lead to the host."""
    before = machine.objects()
    whole, part = applied(node_id, CLAIMED), applied(node_id, PART)
    async with engine_on(machine, node_id) as engine:
        await engine.create(whole)
        container = only(await engine.observe_one(whole.workload_id)).component_id
        inside(machine, container, "busybox ln -s / /data/inner")
        await destroy(engine, whole.workload_id)
        with pytest.raises(FailedPrecondition, match="a link is not followed"):
            await engine.create(part)
        await engine.create(whole)
        container = only(await engine.observe_one(whole.workload_id)).component_id
        inside(machine, container, "busybox rm /data/inner")
        await destroy(engine, whole.workload_id)
        await engine.create(part)
        container = only(await engine.observe_one(whole.workload_id)).component_id
        assert inside(machine, container, "touch /data/x; ls /data") == "x"
        await engine.destroy(part.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert machine.objects() == before


async def test_values_of_secrets_are_where_they_belong_alone(machine: PodmanMachine, node_id: str) -> None:
    """A Secret's value is in the container, and in no label, annotation, log, event, error or process list."""
    value = "hush-hush-9471"
    wanted = applied(node_id, CLAIMED)
    seen: list[str] = []
    async with engine_on(machine, node_id) as engine:
        creating = asyncio.create_task(engine.create(wanted))
        while not creating.done():
            seen.append(await asyncio.to_thread(_processes))
        await creating
        found = await engine.observe_one(wanted.workload_id)
        component = only(found)
        assert inside(machine, component.component_id, "echo $TOKEN; cat /login/token").split() == [value, value]
        seen.append(repr(found))
        seen.append(machine.podman("events", "--stream=false", "--since", "1m"))
        config = machine.listed("container", "inspect", component.component_id)[0]["Config"]
        seen += [str(config["Labels"]), str(config["Annotations"]), str(config["Cmd"])]
        broken = applied(node_id, CLAIMED.replace('["sh", "-c"', '["nonesuch", "-c"'), deployment="broken")
        with pytest.raises(FailedPrecondition) as caught:
            await engine.create(broken)
        seen.append(f"{caught.value!r} {caught.value.metadata}")
        await engine.destroy(wanted.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert [text for text in seen if value in text] == []


def _processes() -> str:
    done = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


async def test_memory_in_a_volume_outlives_a_restart_by_podman(machine: PodmanMachine, node_id: str) -> None:
    """A directory in memory is shared by the pod's containers, and there after one of them has restarted."""
    text = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: fast}}
spec:
  volumes: [{{name: fast, emptyDir: {{medium: Memory, sizeLimit: 8Mi}}}}]
  containers:
  - name: one
    image: {IMAGE}
    command: ["sh", "-c", "echo run >> /fast/runs; while ! test -e /fast/go; do sleep 0.1; done; rm /fast/go; exit 1"]
    volumeMounts: [{{name: fast, mountPath: /fast}}]
  - name: two
    image: {IMAGE}
    command: ["sh", "-c", "{FOREVER}"]
    volumeMounts: [{{name: fast, mountPath: /fast}}]
"""
    wanted = applied(node_id, text)
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        (two,) = [part for part in await components(engine, wanted.workload_id) if part.display_name == "two"]
        inside(machine, two.component_id, "touch /fast/go")
        for _ in range(100):
            if inside(machine, two.component_id, "busybox wc -l < /fast/runs") == "2":
                break
            await asyncio.sleep(0.1)
        assert inside(machine, two.component_id, "busybox wc -l < /fast/runs") == "2"
        await destroy(engine, wanted.workload_id)


async def test_what_a_cut_creation_left_is_not_taken_for_whole(machine: PodmanMachine, node_id: str) -> None:
    """Volumes that an interrupted creation left are completed, and a directory that should be empty is."""
    before = machine.objects()
    wanted = applied(node_id, CLAIMED)
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        for pod in machine.listed("pod", "ls"):
            if pod["Name"].startswith(wanted.workload_id):
                machine.podman("pod", "rm", "--force", "--time=0", pod["Id"])
        for volume in machine.listed("volume", "ls"):
            await asyncio.to_thread(_empty, Path(volume["Mountpoint"]))
            if ".scratch." in volume["Name"]:
                await asyncio.to_thread(Path(volume["Mountpoint"], "stale").touch)
        await engine.create(wanted)
        container = only(await engine.observe_one(wanted.workload_id)).component_id
        assert inside(machine, container, "cat /settings/a/b; ls /scratch | busybox wc -l") == "fast0"
        await engine.destroy(wanted.workload_id, grace_seconds=None, force=True, remove_volumes=True)
    assert machine.objects() == before


def _empty(place: Path) -> None:
    """Remove all files."""
    for path in place.rglob("*"):
        if path.is_file():
            path.unlink()
