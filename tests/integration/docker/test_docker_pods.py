"""What is docker's own about Pods: projects that `docker compose` sees, the container that holds a network, storage."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.engines.docker.pods.honours import HONOURS
from services.engines.docker.pods.images import PAUSE
from services.engines.engine import Observation, Spec, WorkloadState
from services.engines.pods.acts import SupervisorLimits
from services.engines.pods.fields import NodePolicy, check
from services.engines.pods.filling import Made
from services.engines.pods.labels import LABEL_ROLE
from services.engines.restarts import BackOff
from services.errors import AlreadyExists, BeemeshError, FailedPrecondition
from services.identity import LABEL_WORKLOAD_ID
from services.manifests import parse
from tests.harness.compose import OnDocker
from tests.harness.docker import IMAGE, DockerMachine, compose_binary
from tests.harness.ports import ask, free_port
from tests.harness.processes import short_directory
from tests.harness.registry import PASSWORD, USER, Registry, skip_without_registry
from tests.integration.compose.served import deploying, engine, state_of
from tests.integration.compose.workloads import SECONDS, components, lines, remove, said, seen, spec, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

QUICK = SupervisorLimits(back_off=BackOff(base=0.2, cap=1.0), poll=1.0)
WAITS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
SERVES = "mkdir -p /w; echo here > /w/index.html; httpd -p 8080 -h /w; " + WAITS


def pod(*containers: dict[str, Any], kind: str = "Pod", replicas: int = 1, more: str = "", **fields: Any) -> str:
    """A manifest of these containers; `fields` go into the PodSpec, `more` are further documents."""
    made = {"containers": list(containers), "terminationGracePeriodSeconds": 5, **fields}
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": made}
    if kind == "Deployment":
        labels = {"app": "web"}
        template = {"metadata": {"labels": labels}, "spec": made}
        body = {
            **body,
            "apiVersion": "apps/v1",
            "kind": kind,
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
        }
    return f"{json.dumps(body)}\n{f'---{chr(10)}{more}' if more else ''}"


def container(script: str = WAITS, *, name: str = "main", **fields: Any) -> dict[str, Any]:
    """A container that runs a script."""
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **fields}


@asynccontextmanager
async def running(docker: DockerMachine, node_id: str, text: str, **fields: Any) -> AsyncIterator[tuple[Any, Spec]]:
    """An engine and a workload on it, of which nothing is left in the end."""
    before = docker.objects()
    async with docker.engine(node_id, supervisor=QUICK, **fields) as made:
        mine = spec(node_id, text, name="web")
        await made.create(mine)
        try:
            yield made, mine
        finally:
            await remove(made, mine)
    assert docker.objects() == before


def infra(docker: DockerMachine, of: Spec) -> dict[str, Any]:
    """The container that holds the only pod's network."""
    label = f"{LABEL_WORKLOAD_ID}={of.workload_id}"
    (found,) = [each for each in docker.containers(label) if each["Config"]["Labels"][LABEL_ROLE] == "infra"]
    return found


def answers(port: int) -> bool:
    """Whether a server says what it should there."""
    return "here" in ask(port)


def compose(docker: DockerMachine, *words: str) -> str:
    """What `docker compose` says."""
    env = {"DOCKER_HOST": f"unix://{docker.socket}", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run([compose_binary(), *words], env=env, cwd="/", capture_output=True, text=True, check=True)
    return done.stdout


async def test_docker_compose_sees_a_pod_as_a_project(docker: DockerMachine, node_id: str) -> None:
    """`ls`, `ps` and `logs` show it, each replica's containers as a service's; `stop` ends what it is told to end."""
    text = pod(container(f"echo hello; {WAITS}"), kind="Deployment", replicas=2)
    async with running(docker, node_id, text) as (made, mine):
        project = f"bm-{mine.workload_id}"
        assert project in {each["Name"] for each in json.loads(compose(docker, "ls", "--format", "json"))}
        shown = [json.loads(line) for line in compose(docker, "-p", project, "ps", "--format", "json").splitlines()]
        assert sorted(each["Service"] for each in shown) == ["_infra", "_infra", "main", "main"]
        assert compose(docker, "-p", project, "logs", "main").count("hello") == 2
        assert sorted(await components(made, mine)) == ["main-0", "main-1"]


async def test_a_pod_and_a_project_do_not_see_each_other(docker: DockerMachine, node_id: str) -> None:
    """Each is seen once, with its own containers, and the end of one leaves the other alone."""
    file = 'services: {web: {image: IMAGE, command: [sh, -c, "WAITS"]}}\n'
    async with running(docker, node_id, pod(container())) as (made, mine):
        other = spec(node_id, file, name="shop")
        await made.create(other)
        found = await made.observe()
        assert {name: len(each.components) for name, each in found.items()} == {
            mine.workload_id: 1,
            other.workload_id: 1,
        }
        started = (await components(made, mine))["main-0"].start_time
        await remove(made, other)
        assert set(await made.observe()) == {mine.workload_id}
        assert (await components(made, mine))["main-0"].start_time == started


async def test_a_pod_whose_network_has_ended_comes_back_with_it(docker: DockerMachine, node_id: str) -> None:
    """When what holds it is killed, its containers are restarted, each once, and its port answers again."""
    port = free_port()
    served = container(SERVES, ports=[{"containerPort": 8080, "hostPort": port, "hostIP": "127.0.0.1"}])
    async with running(docker, node_id, pod(served, container(name="side"))) as (made, mine):
        await until(lambda: asyncio.to_thread(answers, port))
        os.kill(infra(docker, mine)["State"]["Pid"], signal.SIGKILL)

        async def is_back() -> bool:
            there = await components(made, mine)
            whole = all(each.state is WorkloadState.RUNNING and each.restart_count == 1 for each in there.values())
            return whole and await asyncio.to_thread(answers, port)

        await until(is_back)
        there = await components(made, mine)
        assert {each.last_exit and each.last_exit.reason for each in there.values()} == {"PodNetworkLost"}
        await asyncio.sleep(3)
        assert {each.restart_count for each in (await components(made, mine)).values()} == {1}


async def test_what_never_restarts_stays_down_without_its_network(docker: DockerMachine, node_id: str) -> None:
    """A container that is not to be restarted has failed then."""
    async with running(docker, node_id, pod(container(), restartPolicy="Never")) as (made, mine):
        os.kill(infra(docker, mine)["State"]["Pid"], signal.SIGKILL)

        async def has_failed() -> bool:
            main = (await components(made, mine))["main-0"]
            return (main.state, main.reason) == (WorkloadState.FAILED, "PodNetworkLost")

        await until(has_failed)


async def test_a_pod_that_has_lost_what_holds_it_is_made_whole_by_an_update(
    docker: DockerMachine, node_id: str
) -> None:
    """It is not told as whole, and only it is made anew."""
    text = pod(container(), kind="Deployment", replicas=2)
    async with running(docker, node_id, text) as (made, mine):
        before = await components(made, mine)
        with docker.sdk() as sdk:
            sdk.remove_container(f"{mine.workload_id}-1", force=True)
        assert set(await components(made, mine)) == {"main-0"}
        await made.update(mine, mine, [])
        after = await components(made, mine)
        assert set(after) == {"main-0", "main-1"}
        assert after["main-0"].component_id == before["main-0"].component_id
        assert after["main-1"].component_id != before["main-1"].component_id


async def test_replicas_come_and_go_in_one_network(docker: DockerMachine, node_id: str) -> None:
    """Those that stay are not touched; without any, the network goes too, and comes back with the first."""
    text = pod(container(), kind="Deployment", replicas=1)
    async with running(docker, node_id, text) as (made, mine):
        (first,) = (await components(made, mine)).values()
        three, none = (replace(mine, config=replace(mine.config, replicas=count)) for count in (3, 0))
        await made.update(mine, three, [])
        there = await components(made, mine)
        assert len(there) == 3
        assert there["main-0"].component_id == first.component_id
        assert len([name for name in docker.objects() if mine.workload_id in name and "network" in name]) == 1
        await made.update(three, none, [])
        assert [name for name in docker.objects() if mine.workload_id in name] == []
        await made.update(none, mine, [])
        assert len(await components(made, mine)) == 1


async def test_it_holds_a_whole_pods_processes(docker: DockerMachine, node_id: str) -> None:
    """With shared processes it is process 1, and orphans that end leave nothing behind."""
    orphans = f"(sleep 0.2 & exec true) & {WAITS}"
    text = pod(container(orphans), container(name="side"), shareProcessNamespace=True)
    async with running(docker, node_id, text) as (made, mine):
        assert "pause" in await said(made, mine, "side", "cat /proc/1/cmdline | tr '\\0' ' '")
        await asyncio.sleep(1)
        zombies = "for p in /proc/[0-9]*; do grep -s 'State:.*Z' $p/status; done; true"
        assert await said(made, mine, "side", zombies) == ""


async def test_its_image_is_made_when_it_is_missing(docker: DockerMachine, node_id: str) -> None:
    """No registry is asked for it; another one that is named must be there."""
    with docker.sdk() as sdk:
        if PAUSE in docker.images():
            sdk.remove_image(PAUSE, force=True)
    async with running(docker, node_id, pod(container())):
        assert PAUSE in docker.images()
    async with docker.engine(node_id, pause_image="r.invalid/pause:9") as made:
        with pytest.raises(FailedPrecondition) as caught:
            await made.create(spec(node_id, pod(container()), name="web"))
        assert (caught.value.reason, caught.value.metadata["image"]) == ("IMAGE_NOT_FOUND", "r.invalid/pause:9")
        assert await made.observe() == {}


async def test_what_is_in_memory_outlives_a_restart(docker: DockerMachine, node_id: str) -> None:
    """An emptyDir in memory is there as long as its pod is, though no container of it runs for a moment."""
    volume = {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    script = f"cat /m/kept; date > /m/kept; [ -e /m/again ] || {{ touch /m/again; exit 1; }}; {WAITS}"
    text = pod(container(script, volumeMounts=[{"name": "m", "mountPath": "/m"}]), volumes=[volume])
    async with running(docker, node_id, text) as (made, mine):

        async def is_restarted() -> bool:
            main = (await components(made, mine))["main-0"]
            return main.restart_count == 1 and main.state is WorkloadState.RUNNING

        await until(is_restarted)
        assert await said(made, mine, "main", "ls /m") == "again\nkept"
        assert "1024" in await said(made, mine, "main", "df -k /m | tail -1")


FILES = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {open: "yes", shut: "no"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {key: hush-hush}
"""


def mounting(**fields: Any) -> str:
    """A pod with files."""
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("settings", "keys", "scratch")]
    volumes = [
        {
            "name": "settings",
            "configMap": {
                "name": "settings",
                "defaultMode": 0o440,
                "items": [{"key": "open", "path": "deep/open", "mode": 0o444}, {"key": "shut", "path": "shut"}],
            },
        },
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {"name": "scratch", "emptyDir": {}},
    ]
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}]
    return pod(container(volumeMounts=mounts, env=env, **fields), volumes=volumes, more=FILES)


@pytest.mark.parametrize("in_reach", [True, False], ids=["in place", "through docker"])
async def test_files_are_there_however_they_are_put_in(
    docker: DockerMachine, node_id: str, monkeypatch: pytest.MonkeyPatch, in_reach: bool
) -> None:
    """Contents and modes are the manifest's, also where docker's storage is not seen from the engine."""
    if not in_reach:
        monkeypatch.setattr(Made, "in_reach", property(lambda _: False))
    async with running(docker, node_id, mounting()) as (made, mine):
        assert await said(made, mine, "main", "cat /settings/deep/open /settings/shut /keys/key") == "yesnohush-hush"
        modes = "stat -c %a /settings/deep/open /settings/shut /keys/key /settings /scratch"
        assert (await said(made, mine, "main", modes)).split() == ["444", "440", "400", "755", "777"]


async def test_a_part_of_a_volume_needs_dockers_storage(
    docker: DockerMachine, node_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is mounted where that is in reach, and refused where it is not; nothing is left."""
    mounts = [{"name": "d", "mountPath": "/a", "subPath": "one"}, {"name": "d", "mountPath": "/b", "subPath": "two/x"}]
    text = pod(container(volumeMounts=mounts), volumes=[{"name": "d", "emptyDir": {}}])
    async with running(docker, node_id, text) as (made, mine):
        await said(made, mine, "main", "echo 1 > /a/f; echo 2 > /b/f")
        assert await said(made, mine, "main", "cat /a/f /b/f") == "1\n2"
    before = docker.objects()
    monkeypatch.setattr(Made, "in_reach", property(lambda _: False))
    async with docker.engine(node_id) as made:
        with pytest.raises(FailedPrecondition) as caught:
            await made.create(spec(node_id, text, name="web"))
        assert caught.value.reason == "UNSUPPORTED_FIELD"
    assert docker.objects() == before


async def test_secrets_stand_nowhere_but_where_they_are_asked_for(docker: DockerMachine, node_id: str) -> None:
    """In the variables of the container, for who may ask docker, and in no label, command or name."""
    async with running(docker, node_id, mounting()) as (_, mine):
        for each in docker.containers(f"{LABEL_WORKLOAD_ID}={mine.workload_id}"):
            each["Config"]["Env"] = []
            assert "hush" not in json.dumps(each)


async def test_claims_outlive_their_pod_and_nobody_elses_is_taken(docker: DockerMachine, node_id: str) -> None:
    """A claim stays until it is to go; a volume of its name that is not ours is refused and left alone."""
    claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], "
    claim += "resources: {requests: {storage: 1Gi}}}\n"
    volumes = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]
    text = pod(container(volumeMounts=[{"name": "d", "mountPath": "/d"}]), volumes=volumes, more=claim)
    before = docker.objects()
    async with docker.engine(node_id) as made:
        mine = spec(node_id, text, name="web")
        await made.create(mine)
        await said(made, mine, "main", "echo kept > /d/f")
        await remove(made, mine, volumes=False)
        assert docker.objects() - before == {f"volume {mine.workload_id}.claim.data"}
        await made.create(mine)
        assert await said(made, mine, "main", "cat /d/f") == "kept"
        await remove(made, mine)
        assert docker.objects() == before
        with docker.sdk() as sdk:
            sdk.create_volume(f"{mine.workload_id}.claim.data")
        with pytest.raises(AlreadyExists, match="is not this workload's"):
            await made.create(mine)
        assert docker.objects() - before == {f"volume {mine.workload_id}.claim.data"}
        with docker.sdk() as sdk:
            sdk.remove_volume(f"{mine.workload_id}.claim.data")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (pod(container(), initContainers=[container("echo sorry; exit 3", name="first")]), "INIT_FAILED"),
        (pod({"name": "main", "image": IMAGE, "command": ["/no/such"]}), "START_FAILED"),
        (pod({"name": "main", "image": "localhost/no/such:1"}), "IMAGE_NOT_FOUND"),
        (pod(container(lifecycle={"postStart": {"exec": {"command": ["false"]}}})), "START_FAILED"),
        (pod(container(resources={"limits": {"memory": "1Mi"}})), "MEMORY_LIMIT_TOO_LOW"),
        (pod(container(securityContext={"runAsNonRoot": True})), "START_FAILED"),
    ],
)
async def test_what_cannot_start_leaves_nothing(docker: DockerMachine, node_id: str, text: str, reason: str) -> None:
    """Each failure has its reason, and all that was made of it is gone."""
    before = docker.objects()
    async with docker.engine(node_id) as made:
        with pytest.raises(BeemeshError) as caught:
            await made.create(spec(node_id, text, name="web"))
        assert (caught.value.reason, "leftovers" in caught.value.metadata) == (reason, False)
        if reason == "INIT_FAILED":
            assert "sorry" in caught.value.message
    assert docker.objects() == before


async def test_a_port_that_is_taken_is_told_as_such(docker: DockerMachine, node_id: str) -> None:
    """PORT_IN_USE, with the port; nothing is left, and it starts once the port is free."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = pod(container(SERVES, ports=[{"containerPort": 8080, "hostPort": port, "hostIP": "127.0.0.1"}]))
        before = docker.objects()
        async with docker.engine(node_id) as made:
            with pytest.raises(FailedPrecondition) as caught:
                await made.create(spec(node_id, text, name="web"))
        assert (caught.value.reason, caught.value.metadata["host_port"]) == ("PORT_IN_USE", str(port))
        assert docker.objects() == before
    async with running(docker, node_id, text) as (made, mine):
        assert [(each.host_port, each.host_ip) for each in (await seen(made, mine)).ports] == [(port, "127.0.0.1")]
        await made.stop(mine.workload_id, grace_seconds=None)
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", port))  # a pod that was stopped holds no port
        await made.start(mine.workload_id)
        await until(lambda: asyncio.to_thread(answers, port))


async def test_a_name_that_somebody_else_has_is_refused(docker: DockerMachine, node_id: str) -> None:
    """NAME_IN_USE; the other's container stays."""
    async with docker.engine(node_id) as made:
        mine = spec(node_id, pod(container()), name="web")
        name = f"{mine.workload_id}-0"
        with docker.sdk() as sdk:
            sdk.create_container(IMAGE, name=name)
        before = docker.objects()
        with pytest.raises(AlreadyExists) as caught:
            await made.create(mine)
        assert caught.value.reason == "NAME_IN_USE"
        assert docker.objects() == before
        with docker.sdk() as sdk:
            sdk.remove_container(name)


def test_the_machines_processes_are_a_matter_of_policy() -> None:
    """HostPID and hostIPC are denied by path and line, and honoured where the node grants them."""
    manifest = parse(pod(container(), hostPID=True, hostIPC=True))
    found = check(manifest, spec("a" * 40, pod(container())).config, HONOURS)
    assert [(each.field_path, each.reason) for each in found] == [
        ("spec.hostPID", "HOST_ACCESS_DENIED"),
        ("spec.hostIPC", "HOST_ACCESS_DENIED"),
    ]
    assert check(manifest, spec("a" * 40, pod(container())).config, HONOURS, NodePolicy(host_access=True)) == []


async def test_the_machines_processes_are_seen_where_they_are_granted(docker: DockerMachine, node_id: str) -> None:
    """The container sees the machine's, and this very test among them."""
    async with running(docker, node_id, pod(container(), hostPID=True, hostIPC=True)) as (made, mine):
        assert await said(made, mine, "main", f"ls -d /proc/{os.getpid()} 2>&1 | wc -l") == "1"
        assert "python" in await said(made, mine, "main", f"cat /proc/{os.getpid()}/cmdline | tr '\\0' ' '")


async def test_the_images_own_health_check_is_not_run(docker: DockerMachine, node_id: str) -> None:
    """Kubernetes knows none but the manifest's probes."""
    docker.make_image("localhost/sick:1", changes=["HEALTHCHECK --interval=1s CMD false"])
    text = pod({"name": "main", "image": "localhost/sick:1", "command": ["sh", "-c", WAITS]})
    async with running(docker, node_id, text) as (_, mine):
        (main,) = [
            each for each in docker.containers(f"{LABEL_WORKLOAD_ID}={mine.workload_id}") if "-main" in each["Name"]
        ]
        assert "Health" not in main["State"]


async def test_logs_are_followed_over_restarts_by_the_engine(docker: DockerMachine, node_id: str) -> None:
    """A follower of a container that is started again reads on, and ends when it is stopped for good."""
    async with running(docker, node_id, pod(container("echo again; sleep 0.3; exit 1"))) as (made, mine):
        reading = asyncio.create_task(lines(made, mine, follow=True))

        async def has_restarted() -> bool:
            return (await components(made, mine))["main-0"].restart_count >= 2

        await until(has_restarted)
        await made.stop(mine.workload_id, grace_seconds=0)
        async with asyncio.timeout(SECONDS):
            assert (await reading).count("again") >= 3


@pytest.fixture(scope="module")
def registry() -> Any:
    """A registry for the tests of this file."""
    with skip_without_registry():
        made = Registry().__enter__()
    yield made
    made.__exit__()


async def test_who_has_a_pull_secret_gets_the_image(docker: DockerMachine, node_id: str, registry: Registry) -> None:
    """By the manifest's secret alone, and pinned when it is exported; a wrong one is denied, without a word of it."""
    name = f"{registry.host}/p{node_id[:8]}"
    with docker.sdk() as sdk:
        sdk.tag(IMAGE, name, "1")
        assert "digest" in sdk.push(name, tag="1", auth_config={"username": USER, "password": PASSWORD})
        sdk.remove_image(f"{name}:1")

    def text(password: str) -> str:
        login = json.dumps({"auths": {registry.host: {"username": USER, "password": password}}})
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "login"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": login},
        }
        main = {"name": "main", "image": f"{name}:1", "command": ["sh", "-c", WAITS]}
        return pod(main, imagePullSecrets=[{"name": "login"}], more=json.dumps(secret))

    async with docker.engine(node_id) as made:
        with pytest.raises(FailedPrecondition) as caught:
            await made.create(spec(node_id, text("battery staple"), name="web"))
        assert caught.value.reason == "IMAGE_DENIED"
        assert "staple" not in caught.value.message
    async with running(docker, node_id, text(PASSWORD)) as (made, mine):
        found: Observation = await seen(made, mine)
        exported = await made.export(mine, found)
        assert f"{name}@sha256:" in exported.text


async def test_docker_is_killed_under_a_pod(docker: DockerMachine, node_id: str) -> None:
    """Its containers run on; when docker is back they are the same, none restarted and none doubled."""
    async with running(docker, node_id, pod(container(), kind="Deployment", replicas=2)) as (made, mine):
        before, pids = await components(made, mine), _pids(docker, mine)
        docker.kill()
        with pytest.raises(BeemeshError) as caught:
            await made.observe()
        assert caught.value.reason == "BACKEND_UNREACHABLE"
        docker.start()
        await asyncio.sleep(3)
        after = await components(made, mine)
        assert {name: each.component_id for name, each in after.items()} == {
            name: each.component_id for name, each in before.items()
        }
        assert {each.restart_count for each in after.values()} == {0}
        assert _pids(docker, mine) == pids


async def test_after_the_machine_was_down_what_should_run_runs_again(docker: DockerMachine, node_id: str) -> None:
    """Docker dies with all containers: pods that ran come back with their network, one that was stopped does not."""
    port = free_port()
    served = container(SERVES, ports=[{"containerPort": 8080, "hostPort": port, "hostIP": "127.0.0.1"}])
    before = docker.objects()
    mine, other = spec(node_id, pod(served), name="web"), spec(node_id, pod(container()), name="idle")
    async with docker.engine(node_id, supervisor=QUICK, data_dir=docker.directory / node_id) as made:
        made.may_run = lambda workload_id: workload_id == mine.workload_id
        await made.create(mine)
        await made.create(other)
        await made.stop(other.workload_id, grace_seconds=0)
        await until(lambda: asyncio.to_thread(answers, port))
        pids = _pids(docker, mine)
        docker.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    docker.start()
    async with docker.engine(node_id, supervisor=QUICK, data_dir=docker.directory / node_id) as made:
        made.may_run = lambda workload_id: workload_id == mine.workload_id
        await until(lambda: asyncio.to_thread(answers, port))
        await asyncio.sleep(2)
        assert {each.state for each in (await seen(made, other)).components} <= {
            WorkloadState.FAILED,
            WorkloadState.SUCCEEDED,
        }
        (main,) = (await components(made, mine)).values()
        assert main.restart_count == 1
        for each in (mine, other):
            await remove(made, each)
    assert docker.objects() == before


def _pids(docker: DockerMachine, of: Spec) -> set[int]:
    return {
        each["State"]["Pid"]
        for each in docker.containers(f"{LABEL_WORKLOAD_ID}={of.workload_id}")
        if each["State"]["Running"]
    }


async def test_the_engine_is_killed_while_it_makes_and_while_it_ends_a_pod(docker: DockerMachine, node_id: str) -> None:
    """The half-made pod is told as such and made anew; a removal that was cut is finished; nothing is doubled."""
    before, workload = docker.objects(), f"beemesh-web-{node_id[:8]}"
    label = f"{LABEL_WORKLOAD_ID}={workload}"
    stuck = pod(container(), initContainers=[container("sleep 60", name="first")])
    slow = pod(container("trap 'sleep 3; exit 0' TERM; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=20)
    with short_directory() as directory:
        async with engine(OnDocker(docker), directory, node_id) as (stub, process):
            creating = stub.DeployWorkload(deploying(workload, stuck), timeout=SECONDS)

            async def is_made() -> bool:
                return len([each for each in docker.containers(label) if each["State"]["Running"]]) == 2

            await until(is_made)
            os.kill(process.pid, signal.SIGKILL)
            creating.cancel()
        async with engine(OnDocker(docker), directory, node_id) as (stub, process):
            broken = (wpb.WORKLOAD_STATE_FAILED, wpb.WORKLOAD_STATE_DEGRADED)

            async def is_told() -> bool:
                return await state_of(stub, workload) in broken

            await until(is_told)
            done = await stub.DeployWorkload(deploying(workload, slow), timeout=SECONDS)
            assert done.action == tpb.CHANGE_ACTION_CREATE
            assert len(docker.containers(label)) == 2
            removing = stub.RemoveWorkload(pb.RemoveWorkloadRequest(workload_id=workload), timeout=SECONDS)

            async def is_stopping() -> bool:
                return await state_of(stub, workload) == wpb.WORKLOAD_STATE_STOPPING

            await until(is_stopping)
            os.kill(process.pid, signal.SIGKILL)
            removing.cancel()
        async with engine(OnDocker(docker), directory, node_id):
            await until(lambda: asyncio.to_thread(lambda: docker.objects() == before))


async def test_a_creation_that_is_cancelled_leaves_nothing(docker: DockerMachine, node_id: str) -> None:
    """Wherever it was cut."""
    before = docker.objects()
    text = mounting()
    async with docker.engine(node_id) as made:
        for tenths in range(0, 8):
            mine = spec(node_id, text, name="web")
            creating = asyncio.create_task(made.create(mine))
            await asyncio.sleep(tenths / 10)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
            if not creating.cancelled():
                await remove(made, mine)
            assert docker.objects() == before, tenths
