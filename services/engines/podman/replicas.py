"""The pods that podman has of one workload."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from services.engines.podman.api import Podman
from services.engines.podman.objects import Objects
from services.engines.podman.teardown import Teardown
from services.engines.pods.labels import LABEL_POD
from services.engines.pods.update import Replica
from services.engines.unix_http import Refusal, shorten
from services.errors import BeemeshError, Internal

_NOT_STARTED = frozenset({"created", "configured", "initialized"})


class PodmanReplicas:
    """A `pods.update.Replicas`."""

    def __init__(self, *, podman: Podman, objects: Objects, labels: Mapping[str, str]) -> None:
        self._podman = podman
        self._objects = objects
        self._labels = labels

    async def there(self) -> Mapping[str, Replica]:
        """See `Replicas`; as all below."""
        return {
            pod["Name"]: Replica(
                container_ids=tuple(each["Id"] for each in pod.get("Containers") or ()),
                made=frozenset(each["Names"] for each in pod.get("Containers") or ()),
                started=frozenset(
                    each["Names"] for each in pod.get("Containers") or () if each["Status"] not in _NOT_STARTED
                ),
            )
            for pod in await self._podman.pods(self._labels)
        }

    async def remove(self, names: Collection[str], *, force: bool) -> None:
        ends = (Teardown(podman=self._podman, labels={**self._labels, LABEL_POD: name}) for name in names)
        await asyncio.gather(*(end.run(grace_seconds=None, force=force) for end in ends))

    async def remove_volume(self, name: str) -> None:
        await self._objects.remove_volume(name)

    def refused(self, refusal: Refusal) -> BeemeshError:
        return Internal(f"podman refused: {shorten(refusal.text)}", reason="BACKEND_ERROR")
