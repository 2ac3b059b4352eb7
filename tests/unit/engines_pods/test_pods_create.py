"""Pods are made in Kubernetes' order, and updated without touching what is whole, whatever the backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from services.engines.pods.create import Bound, Creator, Kept
from services.engines.pods.filling import Made
from services.engines.pods.hooks import Hooks
from services.engines.pods.images import Image
from services.engines.pods.plan import Container, Plan, Pod
from services.engines.pods.update import Replica, Updater
from services.engines.pods.volumes import CLAIM, SCRATCH, Mount, Volume
from services.engines.unix_http import Refusal
from services.errors import AlreadyExists, BeemeshError, DeadlineExceeded, FailedPrecondition, Internal
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from tests.unit.engines_pods.test_pods_supervisor import Unreached

OURS = {LABEL_NODE_ID: "n", LABEL_WORKLOAD_ID: "w"}


def volume(name: str, kind: str) -> Volume:
    """A volume of the workload, in memory so that nothing is filled."""
    return Volume(name=name, kind=kind, labels=OURS, mode=0o755, in_memory=True)


def container(name: str, *volumes: Volume, user: str = "", not_root: bool = False) -> Container:
    """A container that mounts these."""
    mounts = tuple(Mount(source=each, target=f"/{each.name}", read_only=False) for each in volumes)
    return Container(name=name, body={}, image="i", user=user, mounts=mounts, not_root=not_root)


def plan(*pods: Pod) -> Plan:
    """Of these replicas."""
    return Plan(workload_id="w", pods=pods, images=(Image(reference="i", policy=""),))


POD = Pod(
    name="w-0",
    number=0,
    body={},
    inits=(container("one"), container("two")),
    mains=(container("main", volume("claim", CLAIM), volume("scratch", SCRATCH)), container("side")),
)


class Backend:
    """A `Maker` and `Replicas` that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.volumes: dict[str, Kept] = {}
        self.pods: dict[str, Replica] = {}
        self.codes: dict[str, int] = {}
        self.refused_start = ""
        self.is_slow = False
        self.image_users = ""

    async def volume(self, name: str) -> Kept | None:
        return self.volumes.get(name)

    async def create_volume(self, volume: Volume) -> Kept:
        self.asked.append(f"volume {volume.name}")
        made = self.volumes[volume.name] = Kept(labels=volume.labels, place=Path("/none"))
        return made

    async def remove_volume(self, name: str) -> None:
        self.asked.append(f"remove volume {name}")
        self.volumes.pop(name, None)

    async def lend(self, far: Sequence[Made], image: str, name: str) -> None:
        raise AssertionError(name)

    async def create_pod(self, pod: Pod) -> str:
        self.asked.append(f"pod {pod.name}")
        return pod.name

    async def create_container(
        self, pod: Pod, pod_id: str, container: Container, user: str, to: Sequence[Bound]
    ) -> str:
        self.asked.append(" ".join(["make", container.name, *([user] if user else []), *(each.volume for each in to)]))
        return container.name

    async def start(self, container_id: str) -> None:
        if container_id == self.refused_start:
            raise Refusal(500, "it does not want to")
        self.asked.append(f"start {container_id}")

    async def wait(self, container_id: str, *, timeout: float) -> int:
        if self.is_slow:
            raise DeadlineExceeded("late", reason="BACKEND_TIMEOUT")
        self.asked.append(f"wait {container_id}")
        return self.codes.get(container_id, 0)

    async def image_user(self, image: str) -> str:
        return self.image_users

    async def cause(self, pod_id: str, refusal: Refusal) -> Refusal:
        return refusal

    def start_error(self, refusal: Refusal, workload_id: str) -> BeemeshError:
        return FailedPrecondition(refusal.text, reason="START_FAILED")

    async def there(self) -> Mapping[str, Replica]:
        return self.pods

    async def remove(self, names: Collection[str], *, force: bool) -> None:
        self.asked += [f"remove {name}{' at once' if force else ''}" for name in sorted(names)]

    def refused(self, refusal: Refusal) -> BeemeshError:
        return Internal(refusal.text, reason="BACKEND_ERROR")


def creator(backend: Backend) -> Creator:
    """One creation on it."""

    async def last_words(container_id: str) -> str:
        return f"{container_id} was here"

    return Creator(maker=backend, hooks=Hooks(Unreached()), last_words=last_words, init_timeout=5.0)


async def test_those_that_initialize_end_before_the_others_start() -> None:
    """Volumes first, then all containers, each init container to its end, the others in their order."""
    backend = Backend()
    made = creator(backend)
    await made.run(plan(POD))
    assert backend.asked == [
        *("volume claim", "volume scratch", "pod w-0"),
        *("make one", "make two", "make main claim scratch", "make side"),
        *("start one", "wait one", "start two", "wait two", "start main", "start side"),
    ]
    assert made.new_claims == {"claim"}


async def test_a_claim_that_is_there_is_kept_and_what_was_cut_off_begins_empty() -> None:
    """A claim of ours is used as it is, scratch is made anew; a volume that is not ours is refused."""
    backend = Backend()
    backend.volumes = {name: Kept(labels=OURS, place=Path("/none")) for name in ("claim", "scratch")}
    made = creator(backend)
    await made.run(plan(POD))
    assert backend.asked[:2] == ["remove volume scratch", "volume scratch"]
    assert made.new_claims == set()
    backend.volumes["claim"] = Kept(labels={**OURS, LABEL_NODE_ID: "another"}, place=Path("/none"))
    with pytest.raises(AlreadyExists) as caught:
        await creator(backend).run(plan(POD))
    assert caught.value.reason == "NAME_IN_USE"


@pytest.mark.parametrize("is_slow", [False, True])
async def test_an_init_container_that_fails_ends_the_creation(is_slow: bool) -> None:
    """With its exit code, or that it took too long, and its last words; nothing starts after it."""
    backend = Backend()
    backend.codes, backend.is_slow = {"one": 3}, is_slow
    with pytest.raises(FailedPrecondition) as caught:
        await creator(backend).run(plan(POD))
    assert (caught.value.reason, caught.value.metadata["container"]) == ("INIT_FAILED", "one")
    assert "one was here" in caught.value.message
    assert ("did not end within 5 s" in caught.value.message) is is_slow
    assert backend.asked[-1] == ("start one" if is_slow else "wait one")


async def test_users_are_looked_up_where_the_image_decides() -> None:
    """Its user is completed with the manifest's group; one that must not be root, and may be, is refused."""
    backend = Backend()
    backend.image_users = "1000"
    await creator(backend).run(plan(replace(POD, inits=(), mains=(container("main", user=":7", not_root=True),))))
    assert "make main 1000:7" in backend.asked
    for user in ("", "0", "somebody"):
        backend.image_users = user
        with pytest.raises(FailedPrecondition, match="must not run as root"):
            await creator(backend).run(plan(replace(POD, inits=(), mains=(container("main", not_root=True),))))


def whole(pod: Pod) -> Replica:
    """All of it, as it runs."""
    names = frozenset(pod.container_name(each) for each in (*pod.inits, *pod.mains))
    return Replica(container_ids=tuple(sorted(names)), made=names, started=names)


def updater(backend: Backend, released: set[str]) -> Updater:
    """One update on it."""
    return Updater(replicas=backend, creator=creator(backend), release=released.update)


async def provided(plan_: Plan) -> None:
    """Its images are there."""


async def test_an_update_touches_only_what_is_missing_or_too_much() -> None:
    """Whole replicas run on; a broken one is released, removed and made anew, one too many released and ended."""
    backend, released = Backend(), set[str]()
    small = [
        Pod(name=f"w-{number}", number=number, body={}, inits=(), mains=(container("main"),)) for number in range(3)
    ]
    broken = Replica(container_ids=("x",), made=frozenset({"w-1-main"}), started=frozenset())
    backend.pods = {"w-0": whole(small[0]), "w-1": broken, "w-2": whole(small[2])}
    await updater(backend, released).run(plan(*small[:2]), provided)
    assert backend.asked == ["remove w-1 at once", "pod w-1", "make main", "start main", "remove w-2"]
    assert released == {"x", "w-2-main"}


async def test_an_update_that_fails_takes_back_what_it_has_added() -> None:
    """New pods and new claims go again; the others are as they were, and the error says no word of leftovers."""
    backend = Backend()
    backend.refused_start = "side"
    with pytest.raises(FailedPrecondition) as caught:
        await updater(backend, set()).run(plan(POD), provided)
    assert backend.asked[-2:] == ["remove w-0 at once", "remove volume claim"]
    assert "leftovers" not in caught.value.metadata
