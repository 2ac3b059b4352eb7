"""Makes the pods of a plan: volumes first, then each pod and its containers, those that initialize to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from services.engines.podman import classify
from services.engines.podman.http import Refusal
from services.engines.podman.lending import lend
from services.engines.podman.objects import Objects
from services.engines.podman.render import Container, Plan, Pod
from services.engines.pods.filling import Filler, Made, make_part
from services.engines.pods.hooks import Hooks
from services.engines.pods.security import is_root
from services.engines.pods.volumes import CLAIM, SCRATCH, Mount, Volume
from services.errors import AlreadyExists, BeemeshError, DeadlineExceeded, FailedPrecondition
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.telemetry import Log

T = TypeVar("T")

_PODS_AT_ONCE = 4
_SETTLE_SECONDS = 10.0
"""How long a call whose caller left is waited for: podman goes on with it, and what it makes must be seen."""
_HOOK_SECONDS = 120.0
_DEPENDENCY = "starting some containers"
_OWNERSHIP = (LABEL_NODE_ID, LABEL_WORKLOAD_ID)

LastWords = Callable[[str], Awaitable[str]]
"""The last lines of a container's log, by its id."""

log = Log(__name__)


class Creator:
    """One creation; whatever it raises, what was made so far is there, and `new_claims` names the claims among it."""

    def __init__(self, *, objects: Objects, hooks: Hooks, last_words: LastWords, init_timeout: float) -> None:
        self._objects = objects
        self._hooks = hooks
        self._last_words = last_words
        self._init_timeout = init_timeout
        self._filler = Filler(partial(lend, objects))
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
            raise classify.start_error([refusal.text], workload_id=plan.workload_id) from refusal

    # Volumes

    async def _volumes(self, plan: Plan) -> dict[str, Made]:
        wanted = {volume.name: volume for pod in plan.pods for volume in pod.volumes()}
        made = [await self._volume(volume) for volume in wanted.values()]
        if made:
            await _finished(self._filler.fill(made, image=plan.images[0].reference, name=f"{plan.workload_id}-volumes"))
        return {each.volume.name: each for each in made}

    async def _volume(self, volume: Volume) -> Made:
        found = await self._objects.volume(volume.name)
        if found is not None:
            _check_owner(volume, found)
            if volume.kind == SCRATCH:  # of a creation that was cut off: who begins anew finds it empty
                await _finished(self._objects.remove_volume(volume.name))
                found = None
        if found is None:
            made = self._objects.create_volume(volume.name, labels=volume.labels, options=_options(volume))
            found, new = await _finished(made), True
            if volume.kind == CLAIM:
                self.new_claims.add(volume.name)
        else:
            new = False
        return Made(volume=volume, place=Path(str(found["Mountpoint"])), new=new)

    # Pods

    async def _pod(self, plan: Plan, pod: Pod, made: Mapping[str, Made]) -> None:
        pod_id = await _finished(self._objects.create_pod(pod.body))
        inits = [(each, await self._container(pod_id, each, made, plan)) for each in pod.inits]
        mains = [(each, await self._container(pod_id, each, made, plan)) for each in pod.mains]
        try:
            for container, container_id in inits:
                await self._initialize(plan, pod, container, container_id)
            for container, container_id in mains:
                await _finished(self._objects.start(container_id))
                await self._post_start(plan, container, container_id)
        except Refusal as refusal:
            raise await self._cause(pod_id, refusal) from refusal

    async def _cause(self, pod_id: str, refusal: Refusal) -> Refusal:
        """Why a start was refused: that the pod's infra container failed is said without its reason."""
        if _DEPENDENCY not in refusal.text:
            return refusal
        try:
            await self._objects.start(await self._objects.infra(pod_id))
        except Refusal as cause:
            return cause
        return refusal

    async def _container(self, pod_id: str, container: Container, made: Mapping[str, Made], plan: Plan) -> str:
        body = {**container.body, "pod": pod_id, **await _mounts(container.mounts, made)}
        user = str(body.get("user", ""))
        if container.not_root or user.startswith(":"):
            image_user = await self._image_user(str(body["image"]))
            if container.not_root and is_root(image_user):
                raise FailedPrecondition(
                    f"workload {plan.workload_id} cannot start: container {container.name} must not run as root, and "
                    f"its image's user is {image_user or 'root'!r}; set runAsUser to a number other than 0",
                    reason="START_FAILED",
                    metadata={"workload_id": plan.workload_id},
                )
            if user.startswith(":"):
                body["user"] = f"{image_user.partition(':')[0] or '0'}{user}"
        container_id, warnings = await _finished(self._objects.create_container(body))
        for warning in warnings:
            log.warning("podman_warned", container=container_id, text=warning)
        return container_id

    async def _image_user(self, image: str) -> str:
        if image not in self._users:
            self._users[image] = await self._objects.image_user(image)
        return self._users[image]

    async def _initialize(self, plan: Plan, pod: Pod, container: Container, container_id: str) -> None:
        await _finished(self._objects.start(container_id))
        told = {"workload_id": plan.workload_id, "container": container.name, "replica": str(pod.number)}
        try:
            code = await self._objects.wait(container_id, timeout=self._init_timeout)
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


def _check_owner(volume: Volume, found: Mapping[str, Any]) -> None:
    labels: Mapping[str, str] = found.get("Labels") or {}
    if any(labels.get(name) != volume.labels[name] for name in _OWNERSHIP):
        raise AlreadyExists(
            f"a volume {volume.name} is there and is not this workload's; podman volume inspect shows it",
            reason="NAME_IN_USE",
            metadata={"workload_id": volume.labels[LABEL_WORKLOAD_ID]},
        )


async def _mounts(mounts: tuple[Mount, ...], made: Mapping[str, Made]) -> dict[str, Any]:
    """Whole volumes are mounted by name, parts of them and the machine's own directories by path."""
    volumes: list[dict[str, Any]] = []
    binds: list[dict[str, Any]] = []
    for mount in mounts:
        if isinstance(mount.source, Volume) and not mount.part:
            volumes.append(
                {"Name": mount.source.name, "Dest": mount.target, "Options": [*_mount_options(mount), "nocopy"]}
            )
            continue
        if isinstance(mount.source, Volume):
            source = str(await make_part(made[mount.source.name], mount.part))
        else:
            source = await _host_path(mount, mount.source)
        binds.append(
            {
                "type": "bind",
                "source": source,
                "destination": mount.target,
                "options": ["rbind", *_mount_options(mount)],
            }
        )
    return {"volumes": volumes, "mounts": binds}


def _options(volume: Volume) -> dict[str, str]:
    """Podman's for a volume; without an owner it would give the directory to the first container's user."""
    if volume.in_memory:
        return {"type": "tmpfs", "device": "tmpfs", "o": ",".join(volume.memory_options)}
    return {"o": f"uid=0,gid={volume.group or 0}"}


def _mount_options(mount: Mount) -> list[str]:
    return ["ro" if mount.read_only else "rw"]


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


async def _finished(call: Awaitable[T]) -> T:
    """The call's result; who cancels waits until podman has answered, so that what it made can be removed."""
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
