"""Makes pods, containers and volumes in podman, one call each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.engines.podman.objects import Objects
from services.engines.pods import classify
from services.engines.pods.create import Bound, Kept
from services.engines.pods.filling import Made, archive
from services.engines.pods.labels import LABEL_ROLE, ROLE_HELPER
from services.engines.pods.plan import Container, Pod
from services.engines.pods.volumes import Volume
from services.engines.unix_http import Refusal
from services.errors import BeemeshError
from services.telemetry import Log

_DEPENDENCY = "starting some containers"

log = Log(__name__)


class PodmanMaker:
    """A `pods.create.Maker`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def volume(self, name: str) -> Kept | None:
        """See `Maker`; as all below."""
        found = await self._objects.volume(name)
        return None if found is None else _kept(found)

    async def create_volume(self, volume: Volume) -> Kept:
        return _kept(
            await self._objects.create_volume(volume.name, labels=volume.labels, options=_volume_options(volume))
        )

    async def remove_volume(self, name: str) -> None:
        await self._objects.remove_volume(name)

    async def lend(self, far: Sequence[Made], image: str, name: str) -> None:
        targets = {f"/{index}": each.volume for index, each in enumerate(far)}
        body = {
            "name": name,
            "image": image,
            "entrypoint": ["none"],
            "labels": {**far[0].volume.labels, LABEL_ROLE: ROLE_HELPER},
            "image_volume_mode": "ignore",
            "volumes": [
                {"Name": volume.name, "Dest": target, "Options": ["nocopy"]} for target, volume in targets.items()
            ],
        }
        helper, _ = await self._objects.create_container(body)
        try:
            for target, volume in targets.items():
                await self._objects.put_archive(helper, target, archive(volume))
        finally:
            await self._objects.remove_container(helper)

    async def create_pod(self, pod: Pod) -> str:
        return await self._objects.create_pod(pod.body)

    async def create_container(
        self, pod: Pod, pod_id: str, container: Container, user: str, to: Sequence[Bound]
    ) -> str:
        body = {**container.body, "pod": pod_id, **({"user": user} if user else {}), **_mounts(to)}
        container_id, warnings = await self._objects.create_container(body)
        for warning in warnings:
            log.warning("podman_warned", container=container_id, text=warning)
        return container_id

    async def start(self, container_id: str) -> None:
        await self._objects.start(container_id)

    async def wait(self, container_id: str, *, timeout: float) -> int:
        return await self._objects.wait(container_id, timeout=timeout)

    async def image_user(self, image: str) -> str:
        return await self._objects.image_user(image)

    async def cause(self, pod_id: str, refusal: Refusal) -> Refusal:
        """That the pod's infra container failed is said without its reason."""
        if _DEPENDENCY not in refusal.text:
            return refusal
        try:
            await self._objects.start(await self._objects.infra(pod_id))
        except Refusal as cause:
            return cause
        return refusal

    def start_error(self, refusal: Refusal, workload_id: str) -> BeemeshError:
        return classify.start_error([refusal.text], workload_id=workload_id, backend="podman")


def _kept(found: Mapping[str, Any]) -> Kept:
    return Kept(labels=found.get("Labels") or {}, place=Path(str(found["Mountpoint"])))


def _volume_options(volume: Volume) -> dict[str, str]:
    """Without an owner podman would give the directory to the first container's user."""
    if volume.in_memory:
        return {"type": "tmpfs", "device": "tmpfs", "o": ",".join(volume.memory_options)}
    return {"o": f"uid=0,gid={volume.group or 0}"}


def _mounts(to: Sequence[Bound]) -> dict[str, Any]:
    """Nothing of the image is copied into a volume."""
    volumes: list[dict[str, Any]] = []
    binds: list[dict[str, Any]] = []
    for bound in to:
        target, mode = bound.mount.target, "ro" if bound.mount.read_only else "rw"
        if bound.volume:
            volumes.append({"Name": bound.volume, "Dest": target, "Options": [mode, "nocopy"]})
        else:
            binds.append({"type": "bind", "source": bound.path, "destination": target, "options": ["rbind", mode]})
    return {"volumes": volumes, "mounts": binds}
