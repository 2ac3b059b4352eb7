"""On real podman: a service killed in each state, PIDs over restarts, and what podman is told behind our back."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode
from scripts.make_test_image import REFERENCE, import_image
from tests.crash.podman_life import PodmanLife
from tests.e2e.test_two_nodes import wait_for_podman
from tests.harness.podman import skip_without_podman

pytestmark = pytest.mark.podman

ENGINE, ORCHESTRATOR = "services.engines.podman", "services.orchestrator"
SERVICES = ("services.registry", "services.provider", ENGINE, ORCHESTRATOR)

ACTIVE, STOPPED, ROLLED_BACK = (
    pb.DEPLOYMENT_STATE_ACTIVE,
    pb.DEPLOYMENT_STATE_STOPPED,
    pb.DEPLOYMENT_STATE_ROLLED_BACK,
)
DEPLOYING, DELETING, ROLLING_BACK = (
    pb.DEPLOYMENT_STATE_DEPLOYING,
    pb.DEPLOYMENT_STATE_DELETING,
    pb.DEPLOYMENT_STATE_ROLLING_BACK,
)
_LOOP = "while true; do sleep 0.2 & wait $!; done"


def pod(*names: str, policy: str = "Always", first: str = "", says: str = "") -> str:
    """A pod of containers that run until they are told to stop; `first` runs before them."""
    image = f"image: {REFERENCE}, imagePullPolicy: Never"
    command = f"""command: [/bin/sh, -c, "trap 'sleep 1; exit 0' TERM; echo {says}; {_LOOP}"]"""
    lines = [f"  - {{name: {name}, {image}, {command}}}" for name in names]
    before = [f'  - {{name: first, {image}, command: [/bin/sh, -c, "{first}"]}}'] if first else []
    return "\n".join(
        [
            "apiVersion: v1",
            "kind: Pod",
            "metadata: {name: web}",
            "spec:",
            f"  restartPolicy: {policy}",
            "  terminationGracePeriodSeconds: 5",
            *(["  initContainers:", *before] if before else []),
            "  containers:",
            *lines,
        ]
    )


SLOW = "sleep 1"
"""Long enough to be killed in."""
OLD, NEW = pod("main", policy="Never", first=SLOW), pod("main", policy="Never", first=SLOW, says="new")
BROKEN = pod("main", policy="Never", first="exit 1")


@pytest.fixture(scope="module")
def podman_node() -> Iterator[LocalNode]:
    """A node on podman that the tests share; what it leaves behind is removed."""
    with skip_without_podman():
        if subprocess.run(["podman", "image", "exists", REFERENCE], timeout=30, check=False).returncode != 0:
            import_image()
    with LocalNode(engines="podman") as node:
        try:
            with Client(node.socket) as client:
                wait_for_podman(client)
            yield node
        finally:
            podman_state.purge(node.node_id())


@pytest.fixture
def life(podman_node: LocalNode) -> Iterator[PodmanLife]:
    """A deployment that is not there yet, and is not there any more afterwards."""
    life = PodmanLife(podman_node, f"web-{uuid.uuid4().hex[:8]}")
    yield life
    life.delete()
    assert (life.pods(), life.containers()) == ([], {})
    assert life.orphans() == []


def test_no_restart_touches_a_container(life: PodmanLife) -> None:
    """Each service killed by -9, and the whole node stopped in order and started: the same processes run on."""
    life.apply(pod("one", "other"))
    before = life.containers()
    assert len(before) == 3
    for service in SERVICES:
        life.end(service)
        life.until(lambda: life.rests_in(ACTIVE), f"it is not ACTIVE after a kill of {service}")
        assert life.containers() == before
    life.node.stop()
    life.node.start()
    life.until(lambda: life.rests_in(ACTIVE), "it is not ACTIVE after the node's restart")
    assert life.containers() == before
    events = life.events()
    assert events.count("ACTIVE") == 1
    assert not {"COMPONENT_RESTARTED", "DRIFTED", "REPAIRING"} & set(events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A state to be killed in."""

    given: tuple[Callable[[PodmanLife], object], ...] = ()
    when: Callable[[PodmanLife], object]
    """The client's last request; asked again after the kill."""
    state: pb.DeploymentState.ValueType
    """In which the services are killed."""
    killed: tuple[str, ...]
    ends: tuple[pb.DeploymentState.ValueType, str] | None
    """The state and the manifest of its record; None: there is none any more."""


def old(life: PodmanLife) -> object:
    """The first content."""
    return life.apply(OLD)


def asked(manifest: str, **more: bool) -> Callable[[PodmanLife], object]:
    """A content, not waited for."""
    return lambda life: life.apply(manifest, wait=0, **more)


SCENES = {
    "deploying": Scene(when=asked(OLD), state=DEPLOYING, killed=(ENGINE,), ends=(ACTIVE, OLD)),
    "active": Scene(when=old, state=ACTIVE, killed=(ORCHESTRATOR,), ends=(ACTIVE, OLD)),
    "updating": Scene(given=(old,), when=asked(NEW), state=DEPLOYING, killed=(ORCHESTRATOR,), ends=(ACTIVE, NEW)),
    "rolling back": Scene(
        given=(old,),
        when=asked(BROKEN, rollback_on_failure=True),
        state=ROLLING_BACK,
        killed=(ENGINE,),
        ends=(ROLLED_BACK, OLD),
    ),
    "stopped": Scene(given=(old,), when=PodmanLife.stop, state=STOPPED, killed=(ORCHESTRATOR,), ends=(STOPPED, OLD)),
    "deleting": Scene(given=(old,), when=lambda life: life.delete(wait=0), state=DELETING, killed=(ENGINE,), ends=None),
}


@pytest.mark.parametrize("scene", SCENES)
def test_killed_in_each_state(life: PodmanLife, scene: str) -> None:
    """One pod or none as the record says, no orphan, the announcement as it should be, and a retry finds it."""
    what = SCENES[scene]
    for act in what.given:
        act(life)
    what.when(life)
    life.until(lambda: bool(life.pods()) and life.is_in(what.state), "it does not get there")
    before = life.find()
    assert before is not None
    life.end(*what.killed)
    life.until(life.is_told, "nobody can say")
    what.when(life)
    if what.ends is None:
        life.until(life.is_gone, "it is not deleted")
        return
    state, manifest = what.ends
    life.until(lambda: life.rests_in(state), f"it is not {pb.DeploymentState.Name(state)}")
    assert len(life.pods()) == 1
    assert len(life.running()) == (0 if state == STOPPED else 2), "the pod's own container and the one of the manifest"
    after = life.find()
    assert after is not None
    assert (life.manifest(), after.generation) == (manifest, before.generation)


def one_container(life: PodmanLife) -> list[str]:
    """`podman rm -f` of a container."""
    (found,) = [item.name for item in life.containers().values() if item.name.endswith("-one")]
    return ["rm", "-f", "-t", "0", found]


def whole_pod(life: PodmanLife) -> list[str]:
    """`podman pod rm -f`."""
    return ["pod", "rm", "-f", "-t", "0", *life.pods()]


@pytest.mark.parametrize(
    ("names", "command"), [(["one"], one_container), (["one", "other"], one_container), (["one"], whole_pod)]
)
def test_what_podman_removed_is_made_anew_once(
    life: PodmanLife, names: list[str], command: Callable[[PodmanLife], list[str]]
) -> None:
    """The drift is seen, one repair makes it whole, and events say so."""
    life.apply(pod(*names))
    before = life.containers()
    podman_state.podman(*command(life))
    life.until(lambda: "REPAIRING" in life.events() and life.rests_in(ACTIVE), "it is not repaired")
    after = life.running()
    assert len(after) == 1 + len(names)
    assert not after.keys() & before.keys(), "half of it is old"
    events = life.events()
    assert (events.count("DRIFTED"), events.count("REPAIRING")) == (1, 1)


def test_what_podman_stopped_is_started_again_once(life: PodmanLife) -> None:
    """The container starts again as its restart policy says, the same one, and an event says so."""
    life.apply(pod("one"))
    before = life.containers()
    (stopped,) = [item.name for item in before.values() if item.name.endswith("-one")]
    podman_state.podman("stop", "-t", "0", stopped)
    life.until(lambda: "COMPONENT_RESTARTED" in life.events() and life.rests_in(ACTIVE), "it is not told")
    assert life.running().keys() == before.keys()
    assert life.events().count("COMPONENT_RESTARTED") == 1
    assert "REPAIRING" not in life.events()
