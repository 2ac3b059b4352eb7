"""The pods, containers and volumes that podman is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from services.engines.engine import Resources, Spec
from services.engines.podman.render import render
from services.engines.pods import supervision
from services.engines.pods.images import Image
from services.engines.pods.plan import Pod
from services.engines.restarts import Policy
from services.errors import FailedPrecondition
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.manifests import parse
from tests.unit.engines_pods.samples import DEPLOYMENT, NODE, POD, WORKLOAD, pod, spec

MACHINE = Resources(cpu_cores=4.0, memory_bytes=8 << 30)


def made(asked: Spec) -> Pod:
    """The only pod."""
    (pod_,) = render(asked, machine=MACHINE, network="podman").pods
    return pod_


def body(asked: Spec) -> dict[str, Any]:
    """What is posted for its only container."""
    (container,) = made(asked).mains
    return dict(container.body)


def test_names_and_labels_are_ours_and_the_hostname_is_the_manifests() -> None:
    """The pod has our name and labels beside the user's, and inside it the hostname is the manifest's."""
    pod_ = made(spec(labels={"tier": "front", "app": "config", LABEL_NODE_ID: "forged"}))
    assert pod_.name == pod_.body["name"] == f"{WORKLOAD}-0"
    for labels in (pod_.body["labels"], pod_.mains[0].body["labels"]):
        assert labels[LABEL_NODE_ID] == NODE
        assert labels[LABEL_WORKLOAD_ID] == WORKLOAD
        assert (labels["app"], labels["tier"]) == ("config", "front")
    assert pod_.body["hostname"] == "web"
    named = parse(POD.replace("spec:\n", "spec:\n  hostname: inside\n"))
    assert made(spec(named)).body["hostname"] == "inside"


def test_images_are_full_and_each_told_once() -> None:
    """Images are named in full, with their policy, each once."""
    plan = render(spec(pod("imagePullPolicy: Always"), replicas=2), machine=MACHINE, network="podman")
    assert plan.images == (Image(reference="docker.io/library/busybox:latest", policy="Always"),)
    assert plan.pods[1].mains[0].body["image"] == "docker.io/library/busybox:latest"


def test_only_host_ports_are_published() -> None:
    """A containerPort alone is not published."""
    pod_ = made(spec(pod("ports: [{containerPort: 80}, {containerPort: 81, hostPort: 8081, protocol: UDP}]")))
    assert pod_.body["portmappings"] == [{"container_port": 81, "host_port": 8081, "host_ip": "", "protocol": "udp"}]


def test_defaults_are_those_of_kubernetes() -> None:
    """Without a word a container has 30 seconds to end; podman restarts none: whoever supervises them is told how."""
    asked = body(spec())
    assert (asked["restart_policy"], asked["stop_timeout"]) == ("no", 30)
    orders = supervision.orders(asked["annotations"][supervision.ANNOTATION])
    assert orders is not None
    assert (orders.policy, orders.grace_seconds) == (Policy.ALWAYS, 30)
    assert asked["labels"]["beemesh.io/grace-seconds"] == "30"
    quick = body(
        spec(parse(POD.replace("spec:\n", "spec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n")))
    )
    assert (quick["restart_policy"], quick["stop_timeout"]) == ("no", 0)


def test_commands_are_expanded_here() -> None:
    """References in a command mean what Kubernetes says; a command replaces the entrypoint, arguments the command."""
    asked = body(spec(pod('command: [echo, "$(A) $(NO) $HOME $$"]', "args: [x]", "env: [{name: A, value: v}]")))
    assert (asked["entrypoint"], asked["command"]) == (["echo", "v $(NO) $HOME $"], ["x"])


def test_the_callers_variables_win() -> None:
    """Variables of the caller are added to every container, and beat the manifest's."""
    asked = body(spec(pod("env: [{name: A, value: '1'}, {name: B, value: 'b$(A)'}]"), env={"A": "2", "C": "3"}))
    assert asked["env"] == {"HOSTNAME": "web", "A": "2", "B": "b1", "C": "3"}


def test_replicas_are_numbered_and_the_config_beats_the_manifest() -> None:
    """Each replica is a pod with its number; none is wanted, none is made."""
    deployment = parse(DEPLOYMENT)

    def names(**config: object) -> list[str]:
        return [each.name for each in render(spec(deployment, **config), machine=MACHINE, network="podman").pods]

    assert names() == [f"{WORKLOAD}-0", f"{WORKLOAD}-1"]
    assert names(replicas=3) == [f"{WORKLOAD}-{number}" for number in range(3)]
    assert names(replicas=0) == []


def test_replicas_share_files_and_claims_and_not_their_scratch() -> None:
    """ConfigMaps and claims are one volume for all replicas; an emptyDir is each replica's own."""
    first, second = render(spec(parse(DEPLOYMENT)), machine=MACHINE, network="podman").pods
    named = [{volume.kind: volume.name for volume in each.volumes()} for each in (first, second)]
    assert named[0]["files"] == named[1]["files"]
    assert named[0]["claim"] == named[1]["claim"] == f"{WORKLOAD}.claim.data"
    assert named[0]["scratch"] != named[1]["scratch"]


def test_several_workloads_have_names_of_their_own() -> None:
    """Pods of several documents carry the document's name between the workload's and the number."""
    both = parse(f"{POD}---\n{POD.replace('name: web', 'name: other')}")
    names = [each.name for each in render(spec(both), machine=MACHINE, network="podman").pods]
    assert names == [f"{WORKLOAD}-web-0", f"{WORKLOAD}-other-0"]


def test_limits_are_what_the_kernel_takes() -> None:
    """Limits and requests become bytes and microseconds, none below what the kernel takes, and nothing is swapped."""
    lines = ["resources:", "  limits: {cpu: 1m, memory: 64M}", "  requests: {cpu: 0.001, memory: 1Ki}"]
    assert body(spec(pod(*lines)))["resource_limits"] == {
        "memory": {"limit": 64_000_000, "swap": 64_000_000, "reservation": 1024},
        "cpu": {"quota": 1000, "period": 100_000, "shares": 2},
    }


@pytest.mark.parametrize(("cpu", "quota"), [("0.1", 10_000), ("0.3", 30_000), ("2", 200_000), ("1500m", 150_000)])
def test_cores_are_exact(cpu: str, quota: int) -> None:
    """Cores that no binary fraction holds exactly come out as they were meant."""
    asked = body(spec(pod(f"resources: {{limits: {{cpu: '{cpu}'}}}}")))
    assert asked["resource_limits"]["cpu"]["quota"] == quota


def test_the_callers_room_is_a_ceiling() -> None:
    """The caller's room limits a container that has no limit, and shrinks a larger one."""
    room = Resources(cpu_cores=0.5, memory_bytes=1 << 20)
    greedy = pod("resources: {limits: {cpu: '4', memory: 1Gi}, requests: {memory: 1Gi}}")
    for asked in (body(spec(resources=room)), body(spec(greedy, resources=room))):
        assert asked["resource_limits"]["memory"]["limit"] == 1 << 20
        assert asked["resource_limits"]["cpu"]["quota"] == 50_000
        assert asked["resource_limits"]["memory"].get("reservation", 0) <= 1 << 20


def test_a_hint_in_decimal_bytes_is_decimal() -> None:
    """The hint "4GB" is 4,000,000,000 bytes."""
    hinted = parse(POD.replace("name: web\n", 'name: web\n  annotations: {beemesh.io/resources.memory: "4GB"}\n', 1))
    assert body(spec(hinted))["resource_limits"]["memory"]["limit"] == 4_000_000_000


def test_values_of_secrets_show_in_no_representation() -> None:
    """A Secret's value is in what is posted, and in no label, annotation or printed form."""
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: hush-hush}\n"
    manifest = parse(
        POD.replace("spec:\n", "spec:\n  volumes: [{name: v, secret: {secretName: s}}]\n")
        + "    volumeMounts: [{name: v, mountPath: /v}]\n"
        + "    env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n"
        + f"---\n{secret}"
    )
    asked = spec(manifest)
    (pod_,) = render(asked, machine=MACHINE, network="podman").pods
    assert pod_.mains[0].body["env"]["A"] == "hush-hush"
    assert pod_.volumes()[0].files[0].content == b"hush-hush"
    assert "hush" not in repr(pod_)
    assert "hush" not in str(pod_.mains[0].body["labels"]) + str(pod_.mains[0].body["annotations"])


def test_a_manifest_without_a_pod_is_refused() -> None:
    """What has no workload is not rendered, even for a caller who accepts losses."""
    function = "apiVersion: beemesh.io/v1\nkind: Function\nmetadata: {name: f}\nspec: {runtime: python, handler: a.b}\n"
    with pytest.raises(FailedPrecondition, match="Pods and Deployments"):
        render(spec(parse(function)), machine=MACHINE, network="podman")


def test_a_variable_refers_only_to_earlier_ones() -> None:
    """A variable may refer to those before it, and not to those behind it."""
    asked = body(spec(pod("env: [{name: A, value: $(B)}, {name: B, value: $(A)!}, {name: C}]")))
    assert asked["env"] == {"HOSTNAME": "web", "A": "$(B)", "B": "$(B)!", "C": ""}
