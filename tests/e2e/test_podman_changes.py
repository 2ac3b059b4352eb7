"""Changes and limits on real podman, by beectl: a plan names exactly what changes, and the apply does just that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from scripts import podman_state
from scripts.local_node import LocalNode
from scripts.make_test_image import REFERENCE
from tests.harness.beectl import Beectl, objects, podman_node

pytestmark = [pytest.mark.podman, pytest.mark.usefixtures("podman_image")]

ID = "deployment-default-app"
TARGET = "deployment/app"
APP = f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app
  annotations: {{note: old}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: app}}}}
  template:
    metadata: {{labels: {{app: app}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: main
        image: {REFERENCE}
        command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.05; done"]
        env: [{{name: COLOUR, value: red}}]
"""
POD = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: limited
  annotations: {{}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: {REFERENCE}
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.05; done"]
    resources: {{limits: {{memory: 64Mi}}}}
"""
GREEDY = POD.replace("while :", "busybox dd if=/dev/zero of=/dev/null bs=100M count=1; exit $?; while :")


@pytest.fixture(scope="module")
def node() -> Iterator[LocalNode]:
    """One node for all of these."""
    with podman_node() as started:
        yield started


@pytest.fixture
def beectl(node: LocalNode) -> Iterator[Beectl]:
    """A shell on this node; what a test leaves is deleted."""
    program = Beectl(node)
    yield program
    program.clear()


@pytest.fixture
def other_image(node: LocalNode) -> Iterator[str]:
    """The same image under a name that only this test has."""
    name = f"localhost/beemesh-{node.node_id()[:12]}:2"
    podman_state.podman("tag", REFERENCE, name)
    yield name
    podman_state.podman("untag", name)


def containers(beectl: Beectl) -> list[str]:
    """Their ids, by replica; all are ready."""
    parts = beectl.components(ID)
    assert all(part["ready"] for part in parts)
    return [part["componentId"] for part in parts]


def planned(beectl: Beectl, text: str) -> tuple[str, list[dict[str, str]]]:
    """What a plan says: the action, and the changes."""
    answer: dict[str, Any] = json.loads(beectl.ok("plan", "-f", "-", "-o", "json", stdin=text))
    return answer["action"].removeprefix("CHANGE_ACTION_"), answer.get("changes", [])


def change(field: str, old: str, new: str, *, target: str = TARGET, forces: str = "") -> dict[str, str]:
    """One change as a plan names it."""
    action = "CHANGE_ACTION_REPLACE" if forces else "CHANGE_ACTION_UPDATE_IN_PLACE"
    facts = {"action": action, "target": target, "fieldPath": field, "oldValue": old, "newValue": new}
    return facts | ({"forces": forces} if forces else {})


def test_each_change_is_planned_and_done_as_planned(node: LocalNode, beectl: Beectl, other_image: str) -> None:
    """Annotation, replicas, env, image: the plan names exactly that, and what is not touched keeps its container."""
    beectl.ok("apply", "-f", "-", stdin=APP)
    first = containers(beectl)
    assert planned(beectl, APP) == ("NONE", [])

    noted = APP.replace("note: old", "note: new")
    assert planned(beectl, noted) == ("UPDATE_IN_PLACE", [change("metadata.annotations.note", "old", "new")])
    assert containers(beectl) == first, "a plan touches nothing"
    assert "updated: ACTIVE" in beectl.ok("apply", "-f", "-", stdin=noted)
    assert containers(beectl) == first

    more = noted.replace("replicas: 2", "replicas: 3")
    assert planned(beectl, more) == ("UPDATE_IN_PLACE", [change("spec.replicas", "2", "3")])
    assert "updated: ACTIVE" in beectl.ok("apply", "-f", "-", stdin=more)
    assert (containers(beectl)[:2], len(containers(beectl))) == (first, 3)

    main = f"{TARGET}/container/main"
    for field, old, new in (("env.COLOUR.value", "red", "blue"), ("image", REFERENCE, other_image)):
        before, changed = containers(beectl), more.replace(old, new)
        assert planned(beectl, changed) == ("REPLACE", [change(field, old, new, target=main, forces="replace")])
        assert "replaced: ACTIVE" in beectl.ok("apply", "-f", "-", stdin=changed)
        assert set(containers(beectl)).isdisjoint(before)
        assert planned(beectl, changed) == ("NONE", [])
        more = changed
    assert beectl.ok("exec", ID, "-c", "2/main", "--", "sh", "-c", "echo $COLOUR") == "blue\n"
    assert {part["image"] for part in beectl.components(ID)} == {other_image}
    beectl.ok("delete", ID)
    assert objects(node) == set()


def test_who_takes_too_much_memory_is_told_so(node: LocalNode, beectl: Beectl) -> None:
    """64Mi allowed and 100 MiB taken: the container ends with 137 OOMKilled, and the deployment has FAILED."""
    beectl("apply", "-f", "-", stdin=GREEDY)
    beectl.ok("wait", "pod-default-limited", "--for", "failed", "--timeout", "30s")
    assert beectl.told("pod-default-limited")["main"].split()[:5] == ["FAILED", "no", "0", "137", "OOMKilled"]
    (ended,) = beectl.components("pod-default-limited")
    assert (ended["exitStatus"]["exitCode"], ended["exitStatus"]["oomKilled"]) == (137, True)
    beectl.ok("delete", "pod-default-limited")
    assert objects(node) == set()


def test_a_hint_of_4gb_is_four_thousand_million_bytes_inside(beectl: Beectl) -> None:
    """The annotation "4GB" is 4,000,000,000 bytes for podman, and that to the page for the kernel."""
    hinted = POD.replace("annotations: {}", 'annotations: {beemesh.io/resources.memory: "4GB"}')
    beectl.ok("apply", "-f", "-", stdin=hinted.replace("    resources: {limits: {memory: 64Mi}}\n", ""))
    kernel = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true"
    limit = int(beectl.ok("exec", "pod-default-limited", "--", "sh", "-c", kernel))
    assert limit == 4_000_000_000 // 4096 * 4096
    (part,) = beectl.components("pod-default-limited")
    memory = podman_state.podman("container", "inspect", "--format", "{{.HostConfig.Memory}}", part["componentId"])
    assert int(memory) == 4_000_000_000


@pytest.mark.parametrize(
    ("good", "bad", "field", "line"),
    [
        ("64Mi", "64Mx", "spec.containers[0].resources.limits.memory", 13),
        (
            "annotations: {}",
            "annotations: {beemesh.io/resources.memory: lots}",
            'metadata.annotations["beemesh.io/resources.memory"]',
            5,
        ),
    ],
    ids=["limit", "hint"],
)
def test_a_bad_quantity_is_refused_by_line(beectl: Beectl, good: str, bad: str, field: str, line: int) -> None:
    """What is no amount ends with its field and line, and nothing is recorded."""
    done = beectl("apply", "-f", "-", stdin=POD.replace(good, bad))
    assert done.returncode == 1
    assert f"stdin:{line}:" in done.stderr
    assert f"{field}: " in done.stderr
    assert beectl.ok("get", "-o", "name") == ""
