"""The pods that podman is asked to play."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.engine import Resources, Spec
from services.engines.podman.render import environment, expand, render, under
from services.errors import FailedPrecondition
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.manifests import parse
from tests.unit.engines_podman.samples import NODE, POD, WORKLOAD, pod, spec

OLD, NEW = (4, 3, 1), (5, 4, 0)


def played(asked: Spec, version: tuple[int, ...] = OLD) -> dict[str, Any]:
    """The only pod."""
    (made,) = render(asked, backend_version=version).pods
    return made


def test_names_and_labels_are_ours_and_the_hostname_is_the_manifests() -> None:
    """The pod has our name and labels beside the user's, and inside it the hostname is the manifest's."""
    made = played(spec(labels={"tier": "front", "app": "config", LABEL_NODE_ID: "forged"}))
    assert made["metadata"]["name"] == f"{WORKLOAD}-0"
    labels = made["metadata"]["labels"]
    assert labels[LABEL_NODE_ID] == NODE
    assert labels[LABEL_WORKLOAD_ID] == WORKLOAD
    assert (labels["app"], labels["tier"]) == ("config", "front")
    assert all(len(value) <= 63 for value in labels.values())
    assert made["spec"]["hostname"] == "web"
    named = parse(POD.replace("spec:\n", "spec:\n  hostname: inside\n"))
    assert played(spec(named))["spec"]["hostname"] == "inside"


def test_annotations_go_beside_the_pod() -> None:
    """Annotations do not stand in the pod, where podman 4.3 refuses long ones."""
    annotated = parse(POD.replace("name: web\n", f"name: web\n  annotations: {{note: {'x' * 100}}}\n"))
    play = render(spec(annotated), backend_version=OLD)
    assert play.annotations == {"note": "x" * 100}
    assert "annotations" not in play.pods[0]["metadata"]


def test_images_are_full_and_never_pulled_by_the_play() -> None:
    """Images are named in full and provided before the play, which then never pulls."""
    play = render(spec(pod("imagePullPolicy: Always")), backend_version=OLD)
    assert [(image.reference, image.policy) for image in play.images] == [
        ("docker.io/library/busybox:latest", "Always")
    ]
    (container,) = play.pods[0]["spec"]["containers"]
    assert container["image"] == "docker.io/library/busybox:latest"
    assert container["imagePullPolicy"] == "Never"


def test_only_host_ports_are_published() -> None:
    """A containerPort alone is not published: podman before 4.7 would take the same port of the machine."""
    made = played(spec(pod("ports: [{containerPort: 80}, {containerPort: 81, hostPort: 8081, protocol: UDP}]")))
    (container,) = made["spec"]["containers"]
    assert container["ports"] == [{"containerPort": 81, "hostPort": 8081, "protocol": "UDP"}]


def test_defaults_are_those_of_kubernetes() -> None:
    """Without a word the pod restarts always and has 30 seconds to end."""
    made = played(spec())
    assert made["spec"]["restartPolicy"] == "Always"
    assert made["metadata"]["labels"]["beemesh.io/grace-seconds"] == "30"
    quick = parse(POD.replace("spec:\n", "spec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n"))
    assert played(spec(quick))["spec"]["restartPolicy"] == "Never"
    assert played(spec(quick))["metadata"]["labels"]["beemesh.io/grace-seconds"] == "0"


@pytest.mark.parametrize(
    ("version", "command"), [(OLD, ["echo", "v $(NO) $HOME $"]), (NEW, ["echo", "v $$(NO) $$HOME $$"])]
)
def test_references_in_commands_mean_what_kubernetes_says(version: tuple[int, ...], command: list[str]) -> None:
    """References are expanded here; a podman that expands by itself gets doubled dollars and finds none."""
    made = played(spec(pod('command: [echo, "$(A) $(NO) $HOME $$"]', "env: [{name: A, value: v}]")), version)
    assert made["spec"]["containers"][0]["command"] == command


def test_the_callers_variables_win() -> None:
    """Variables of the caller are added to every container, and beat the manifest's."""
    made = played(spec(pod("env: [{name: A, value: '1'}, {name: B, value: 'b$(A)'}]"), env={"A": "2", "C": "3"}))
    env = {entry["name"]: entry["value"] for entry in made["spec"]["containers"][0]["env"]}
    assert env == {"A": "2", "B": "b1", "C": "3"}


def test_replicas_are_numbered() -> None:
    """Each replica is a pod with its number; none is wanted, none is made."""
    names = [made["metadata"]["name"] for made in render(spec(replicas=3), backend_version=OLD).pods]
    assert names == [f"{WORKLOAD}-0", f"{WORKLOAD}-1", f"{WORKLOAD}-2"]
    assert render(spec(replicas=0), backend_version=OLD).pods == ()


def test_limits_and_requests_are_plain_numbers() -> None:
    """Quantities are written so that every podman reads them alike, and no limit is below what the kernel takes."""
    lines = ["resources:", "  limits: {cpu: 1m, memory: 64M}", "  requests: {cpu: 0.001, memory: 1Ki}"]
    (container,) = played(spec(pod(*lines)))["spec"]["containers"]
    assert container["resources"] == {
        "limits": {"cpu": "10m", "memory": "64000000"},
        "requests": {"cpu": "1m", "memory": "1024"},
    }


@pytest.mark.parametrize(("cpu", "written"), [("0.1", "100m"), ("0.3", "300m"), ("2", "2000m"), ("1500m", "1500m")])
def test_cores_are_written_in_thousandths(cpu: str, written: str) -> None:
    """Cores that no binary fraction holds exactly come out as they were meant."""
    (container,) = played(spec(pod(f"resources: {{limits: {{cpu: '{cpu}'}}}}")))["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": written}


def test_the_callers_room_is_a_ceiling() -> None:
    """The caller's room limits a container that has no limit, and shrinks a larger one."""
    room = Resources(cpu_cores=0.5, memory_bytes=1 << 20)
    (free,) = played(spec(resources=room))["spec"]["containers"]
    assert free["resources"]["limits"] == {"cpu": "500m", "memory": "1048576"}
    greedy = pod("resources: {limits: {cpu: '4', memory: 1Gi}, requests: {memory: 1Gi}}")
    (shrunk,) = played(spec(greedy, resources=room))["spec"]["containers"]
    assert shrunk["resources"] == {
        "limits": {"cpu": "500m", "memory": "1048576"},
        "requests": {"memory": "1048576"},
    }


def test_nothing_beyond_the_honoured_fields_is_carried_over() -> None:
    """What the engine does not honour is not posted, even where the caller accepts that it is dropped."""
    made = played(spec(pod("livenessProbe: {exec: {command: [x]}}", "securityContext: {privileged: true}")))
    (container,) = made["spec"]["containers"]
    assert set(container) == {"name", "image", "imagePullPolicy", "env", "ports", "resources"}


def test_two_pods_are_refused_even_from_who_accepts_losses() -> None:
    """A manifest with two Pods is not rendered: one of them would be lost."""
    both = parse(f"{POD}---\n{POD.replace('name: web', 'name: other')}")
    with pytest.raises(FailedPrecondition, match="one Pod a deployment"):
        render(spec(both), backend_version=OLD)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$(A)$(A)", "11"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NO)", "$(NO)"),
        ("$(A", "$(A"),
        ("$A ${A}", "$A ${A}"),
        ("100$", "100$"),
        ("$(B)", "$(A)"),
    ],
)
def test_expansion_follows_kubernetes(text: str, expanded: str) -> None:
    """`$(NAME)` is replaced once, `$$` escapes, unknown names stay."""
    assert expand(text, {"A": "1", "B": "$(A)"}) == expanded


def test_a_variable_refers_only_to_earlier_ones() -> None:
    """A variable may refer to those before it, and not to those behind it."""
    entries = [{"name": "A", "value": "$(B)"}, {"name": "B", "value": "$(A)!"}, {"name": "C"}]
    assert environment(entries, {}) == {"A": "$(B)", "B": "$(B)!", "C": ""}


@given(
    limits=st.lists(st.none() | st.floats(0.001, 1e6), min_size=1, max_size=8),
    ceiling=st.floats(0.001, 1e6),
)
def test_limits_stay_under_a_ceiling(limits: list[float | None], ceiling: float) -> None:
    """Under a ceiling all containers have a limit, none a larger one than it had, and together they stay below."""
    made = under(limits, ceiling)
    assert all(limit is not None and limit > 0 for limit in made)
    assert sum(limit or 0 for limit in made) <= ceiling * (1 + 1e-9)
    assert all(was is None or now is None or now <= was for was, now in zip(limits, made, strict=True))
    assert under(limits, None) == limits
