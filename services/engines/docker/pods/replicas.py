"""The pods that docker has of one workload."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from services.engines.docker.pods.ending import Ending
from services.engines.docker.pods.labels import is_infra, of_workload
from services.engines.docker_api.api import Docker
from services.engines.docker_api.inspected import labels_of, seconds
from services.engines.pods.labels import LABEL_POD
from services.engines.pods.update import Replica
from services.engines.unix_http import Refusal, shorten
from services.errors import BeemeshError, Internal


class DockerReplicas:
    """A `pods.update.Replicas`."""

    def __init__(self, docker: Docker, *, node_id: str, workload_id: str) -> None:
        self._docker = docker
        self._node_id = node_id
        self._workload_id = workload_id
        self._labels = of_workload(node_id, workload_id)

    async def there(self) -> Mapping[str, Replica]:
        """See `Replicas`; as all below."""
        pods: dict[str, list[dict[str, Any]]] = {}
        for container in await self._docker.containers(self._labels):
            pods.setdefault(labels_of(container)[LABEL_POD], []).append(container)
        return {name: _replica(containers) for name, containers in pods.items()}

    async def remove(self, names: Collection[str], *, force: bool) -> None:
        endings = [
            Ending(self._docker, node_id=self._node_id, workload_id=self._workload_id, pod=name) for name in names
        ]
        await asyncio.gather(*(each.run(grace_seconds=None, force=force) for each in endings))
        if names and not await self._docker.containers(self._labels):
            for network in await self._docker.networks(self._labels):
                await self._docker.remove_network(network["Id"])

    async def remove_volume(self, name: str) -> None:
        await self._docker.remove_volume(name)

    def refused(self, refusal: Refusal) -> BeemeshError:
        return Internal(f"docker refused: {shorten(refusal.text)}", reason="BACKEND_ERROR")


def _replica(containers: list[dict[str, Any]]) -> Replica:
    """What has lost its infra container is nothing that could be started again."""
    usable = containers if any(map(is_infra, containers)) else []
    return Replica(
        container_ids=tuple(str(each["Id"]) for each in containers),
        made=frozenset(_name(each) for each in usable),
        started=frozenset(_name(each) for each in usable if seconds((each.get("State") or {}).get("StartedAt"))),
    )


def _name(container: Mapping[str, Any]) -> str:
    return str(container["Name"]).removeprefix("/")
