"""Makes the pods of a plan: volumes first, then each pod and its containers, those that initialize to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from services.engines.pods.filling import Filler, Made, make_part
from services.engines.pods.hooks import Hooks
from services.engines.pods.plan import Container, Plan, Pod
from services.engines.pods.security import is_root
from services.engines.pods.volumes import CLAIM, SCRATCH, Mount, Volume
from services.engines.unix_http import Refusal
from services.errors import AlreadyExists, BeemeshError, DeadlineExceeded, FailedPrecondition
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID

T = TypeVar("T")

_PODS_AT_ONCE = 4
_SETTLE_SECONDS = 10.0
"""How long a call whose caller left is waited for: the backend goes on with it, and what it makes must be seen."""
_HOOK_SECONDS = 120.0
_OWNERSHIP = (LABEL_NODE_ID, LABEL_WORKLOAD_ID)

LastWords = Callable[[str], Awaitable[str]]
"""The last lines of a container's log, by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A volume as the backend has it."""

    labels: Mapping[str, str]
    place: Path
    """Where it is on the backend's machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A mount, and what of the machine is mounted there: one of the two."""

    mount: Mount
    volume: str = ""
    """All of this volume."""
    path: str = ""
    """This path of the backend's machine."""


class Maker(Protocol):
    """The calls of one backend; they raise Unavailable, DeadlineExceeded, and Refusal."""

    async def volume(self, name: str) -> Kept | None:
        """A volume, or None when there is none of this name."""

    async def create_volume(self, volume: Volume) -> Kept:
        """Make it, empty; a Refusal when there is one of its name."""

    async def remove_volume(self, name: str) -> None:
        """Remove a volume that nobody uses; one that is gone is no error."""

    async def lend(self, far: Sequence[Made], image: str, name: str) -> None:
        """See `filling.Lend`."""

    async def create_pod(self, pod: Pod) -> str:
        """Make what its containers share; its id."""

    async def create_container(
        self, pod: Pod, pod_id: str, container: Container, user: str, to: Sequence[Bound]
    ) -> str:
        """Make a container of the pod with these mounts, not started; its id."""

    async def start(self, container_id: str) -> None:
        """Start it."""

    async def wait(self, container_id: str, *, timeout: float) -> int:
        """Wait until it has ended; its exit code."""

    async def image_user(self, image: str) -> str:
        """The user that an image names; empty when it names none."""

    async def cause(self, pod_id: str, refusal: Refusal) -> Refusal:
        """What lies behind the refusal of a start, where the backend does not say it by itself."""

    def start_error(self, refusal: Refusal, workload_id: str) -> BeemeshError:
        """The error for what the backend has against a pod."""


class Creator:
    """One creation; whatever it raises, what was made so far is there, and `new_claims` names the claims among it."""

    def __init__(self, *, maker: Maker, hooks: Hooks, last_words: LastWords, init_timeout: float) -> None:
        self._maker = maker
        self._hooks = hooks
        self._last_words = last_words
        self._init_timeout = init_timeout
        self._filler = Filler(maker.lend)
        self._users: dict[str, str] = {}
        self.new_claims: set[str] = set()

    async def run(self, plan: Plan) -> None:
        """Make and start all. Raises what `Engine.create` does."""
        made = await self._translated(plan, self._volumes(plan))
        turn = asyncio.Semaphore(_PODS_AT_ONCE)

        async def one(pod: Pod) -> None:
            async with turn:
                await self._translated(plan, self._pod(plan, pod, made))

        try:
            async with asyncio.TaskGroup() as tasks:
                for pod in plan.pods:
                    tasks.create_task(one(pod))
        except* BeemeshError as group:
            raise _first(group) from group

    async def _translated(self, plan: Plan, work: Awaitable[T]) -> T:
        try:
            return await work
        except Refusal as refusal:
            raise self._maker.start_error(refusal, plan.workload_id) from refusal

    # Volumes

    async def _volumes(self, plan: Plan) -> dict[str, Made]:
        wanted = {volume.name: volume for pod in plan.pods for volume in pod.volumes()}
        made = [await self._volume(volume) for volume in wanted.values()]
        if made:
            name = f"{plan.workload_id}-volumes"
            await finished(self._filler.fill(made, image=plan.images[0].reference, name=name))
        return {each.volume.name: each for each in made}

    async def _volume(self, volume: Volume) -> Made:
        found = await self._maker.volume(volume.name)
        if found is not None:
            _check_owner(volume, found)
            if volume.kind == SCRATCH:  # of a creation that was cut off: who begins anew finds it empty
                await finished(self._maker.remove_volume(volume.name))
                found = None
        if found is not None:
            return Made(volume=volume, place=found.place, new=False)
        made = await finished(self._maker.create_volume(volume))
        if volume.kind == CLAIM:
            self.new_claims.add(volume.name)
        return Made(volume=volume, place=made.place, new=True)

    # Pods

    async def _pod(self, plan: Plan, pod: Pod, made: Mapping[str, Made]) -> None:
        pod_id = await finished(self._maker.create_pod(pod))
        inits = [(each, await self._container(plan, pod, pod_id, each, made)) for each in pod.inits]
        mains = [(each, await self._container(plan, pod, pod_id, each, made)) for each in pod.mains]
        try:
            for container, container_id in inits:
                await self._initialize(plan, pod, container, container_id)
            for container, container_id in mains:
                await finished(self._maker.start(container_id))
                await self._post_start(plan, container, container_id)
        except Refusal as refusal:
            raise await self._maker.cause(pod_id, refusal) from refusal

    async def _container(
        self, plan: Plan, pod: Pod, pod_id: str, container: Container, made: Mapping[str, Made]
    ) -> str:
        user = container.user
        if container.not_root or user.startswith(":"):
            image_user = await self._image_user(container.image)
            if container.not_root and is_root(image_user):
                raise FailedPrecondition(
                    f"workload {plan.workload_id} cannot start: container {container.name} must not run as root, and "
                    f"its image's user is {image_user or 'root'!r}; set runAsUser to a number other than 0",
                    reason="START_FAILED",
                    metadata={"workload_id": plan.workload_id},
                )
            if user.startswith(":"):
                user = f"{image_user.partition(':')[0] or '0'}{user}"
        to = [await _bound(mount, made) for mount in container.mounts]
        return await finished(self._maker.create_container(pod, pod_id, container, user, to))

    async def _image_user(self, image: str) -> str:
        if image not in self._users:
            self._users[image] = await self._maker.image_user(image)
        return self._users[image]

    async def _initialize(self, plan: Plan, pod: Pod, container: Container, container_id: str) -> None:
        await finished(self._maker.start(container_id))
        told = {"workload_id": plan.workload_id, "container": container.name, "replica": str(pod.number)}
        try:
            code = await self._maker.wait(container_id, timeout=self._init_timeout)
        except DeadlineExceeded:
            how = f"did not end within {self._init_timeout:g} s"
        else:
            if code == 0:
                return
            how, told["exit_code"] = f"exited with {code}", str(code)
        words = await self._last_words(container_id)
        raise FailedPrecondition(
            f"workload {plan.workload_id}: init container {container.name} of replica {pod.number} {how}"
            + (f"; its last words: {words}" if words else ""),
            reason="INIT_FAILED",
            metadata=told,
        )

    async def _post_start(self, plan: Plan, container: Container, container_id: str) -> None:
        if container.post_start is None:
            return
        finding = await self._hooks.run(container_id, container.post_start, "postStart", timeout=_HOOK_SECONDS)
        if not finding.ok:
            raise FailedPrecondition(
                f"workload {plan.workload_id}: the postStart hook of container {container.name} failed: "
                f"{finding.message}",
                reason="START_FAILED",
                metadata={"workload_id": plan.workload_id, "container": container.name},
            )


def _check_owner(volume: Volume, found: Kept) -> None:
    if any(found.labels.get(name) != volume.labels[name] for name in _OWNERSHIP):
        raise AlreadyExists(
            f"a volume {volume.name} is there and is not this workload's",
            reason="NAME_IN_USE",
            metadata={"workload_id": volume.labels[LABEL_WORKLOAD_ID]},
        )


async def _bound(mount: Mount, made: Mapping[str, Made]) -> Bound:
    """Whole volumes are mounted by name, parts of them and the machine's own directories by path."""
    if not isinstance(mount.source, Volume):
        return Bound(mount=mount, path=await _host_path(mount, mount.source))
    if not mount.part:
        return Bound(mount=mount, volume=mount.source.name)
    return Bound(mount=mount, path=str(await make_part(made[mount.source.name], mount.part)))


async def _host_path(mount: Mount, path: str) -> str:
    found = Path(path)
    is_there = {"Directory": found.is_dir, "File": found.is_file}.get(mount.host_type)
    if is_there and not await asyncio.to_thread(is_there):
        raise FailedPrecondition(
            f"the path {path} of this machine is not there, or is no {mount.host_type}; "
            f"it was to be mounted at {mount.target}",
            reason="START_FAILED",
        )
    return f"{path}/{mount.part}" if mount.part else path


async def finished(call: Awaitable[T]) -> T:
    """The call's result; who cancels waits until the backend has answered, so that what it made can be removed."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_SETTLE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _first(group: BaseExceptionGroup[BeemeshError]) -> BeemeshError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, BeemeshError)  # noqa: S101 - the group holds nothing else
    return error
