"""Makes pods, containers, volumes and networks in docker, one call each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.engines.docker.pods.images import PauseImage
from services.engines.docker.pods.render import INFRA, NETWORK, SHARES_PROCESSES
from services.engines.docker_api.api import Docker
from services.engines.pods import classify
from services.engines.pods.create import Bound, Kept
from services.engines.pods.filling import Made, archive
from services.engines.pods.labels import LABEL_POD, LABEL_ROLE, ROLE_HELPER
from services.engines.pods.plan import Container, Pod
from services.engines.pods.volumes import Volume
from services.engines.unix_http import Refusal
from services.errors import BeemeshError
from services.identity import LABEL_WORKLOAD_ID
from services.telemetry import Log

log = Log(__name__)


class DockerMaker:
    """A `pods.create.Maker` of one workload's pods."""

    def __init__(self, docker: Docker, pause: PauseImage, *, labels: Mapping[str, str]) -> None:
        """`labels` are those of the workload's containers and networks."""
        self._docker = docker
        self._pause = pause
        self._labels = labels
        self._networking = asyncio.Lock()

    async def volume(self, name: str) -> Kept | None:
        """See `Maker`; as all below."""
        found = await self._docker.volume(name)
        return None if found is None else _kept(found)

    async def create_volume(self, volume: Volume) -> Kept:
        options = {"type": "tmpfs", "device": "tmpfs", "o": ",".join(volume.memory_options)} if volume.in_memory else {}
        body = {"Name": volume.name, "Driver": "local", "Labels": volume.labels, "DriverOpts": options}
        return _kept(await self._docker.create_volume(body))

    async def remove_volume(self, name: str) -> None:
        await self._docker.remove_volume(name)

    async def lend(self, far: Sequence[Made], image: str, name: str) -> None:
        targets = {str(index): each.volume for index, each in enumerate(far)}
        labels = far[0].volume.labels
        body = {
            "Image": await self._pause.provide(),
            "Labels": {**labels, LABEL_POD: labels[LABEL_WORKLOAD_ID], LABEL_ROLE: ROLE_HELPER},
            "HostConfig": {
                "NetworkMode": "none",
                "Mounts": [_volume_mount(volume.name, f"/{target}") for target, volume in targets.items()],
            },
        }
        helper, _ = await self._docker.create_container(name, body)
        try:
            for target, volume in targets.items():
                # From above: docker leaves the directory in which it unpacks as it is.
                await self._docker.put_archive(helper, "/", archive(volume, at=target))
        finally:
            await self._docker.remove_container(helper)

    async def create_pod(self, pod: Pod) -> str:
        """Its infra container, which runs from here on; it keeps what is in memory while others are restarted."""
        if pod.body[NETWORK] is not None:
            await self._network(pod.body[NETWORK])
        infra: Mapping[str, Any] = pod.body[INFRA]
        memories = [volume for volume in pod.volumes() if volume.in_memory]
        mounts = [_volume_mount(volume.name, f"/{number}") for number, volume in enumerate(memories)]
        host = {**infra["HostConfig"], "Mounts": mounts}
        made = await self._create(pod.name, {**infra, "Image": await self._pause.provide(), "HostConfig": host})
        await self._docker.start(made)
        return made

    async def create_container(
        self, pod: Pod, pod_id: str, container: Container, user: str, to: Sequence[Bound]
    ) -> str:
        shared = f"container:{pod_id}"
        host: dict[str, Any] = {
            "IpcMode": shared,
            **container.body["HostConfig"],
            "NetworkMode": shared,
            "Mounts": [_mount(bound) for bound in to],
        }
        if pod.body[SHARES_PROCESSES]:
            host["PidMode"] = shared
        body = {**container.body, **({"User": user} if user else {}), "HostConfig": host}
        return await self._create(pod.container_name(container), body)

    async def start(self, container_id: str) -> None:
        await self._docker.start(container_id)

    async def wait(self, container_id: str, *, timeout: float) -> int:
        return await self._docker.wait(container_id, timeout=timeout)

    async def image_user(self, image: str) -> str:
        found = await self._docker.image(image) or {}
        return str((found.get("Config") or {}).get("User") or "")

    async def cause(self, pod_id: str, refusal: Refusal) -> Refusal:
        return refusal

    def start_error(self, refusal: Refusal, workload_id: str) -> BeemeshError:
        return classify.start_error([refusal.text], workload_id=workload_id, backend="docker")

    async def _network(self, body: Mapping[str, Any]) -> None:
        """All pods of a workload are in one network: docker has only some dozens to give."""
        async with self._networking:
            if not await self._docker.networks(self._labels):
                await self._docker.create_network(body)

    async def _create(self, name: str, body: Mapping[str, Any]) -> str:
        made, warnings = await self._docker.create_container(name, body)
        for warning in warnings:
            log.warning("docker_warned", container=made[:12], text=warning)
        return made


def _kept(found: Mapping[str, Any]) -> Kept:
    return Kept(labels=found.get("Labels") or {}, place=Path(str(found["Mountpoint"])))


def _mount(bound: Bound) -> dict[str, Any]:
    read_only = bound.mount.read_only
    if bound.volume:
        return {**_volume_mount(bound.volume, bound.mount.target), "ReadOnly": read_only}
    return {"Type": "bind", "Source": bound.path, "Target": bound.mount.target, "ReadOnly": read_only}


def _volume_mount(name: str, target: str) -> dict[str, Any]:
    """Nothing of the image is copied into a volume."""
    return {"Type": "volume", "Source": name, "Target": target, "VolumeOptions": {"NoCopy": True}}
