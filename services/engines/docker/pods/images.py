"""Docker's images: those that manifests name, and the one that holds the pods' networks, which is made here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from services.engines.docker.pods import pause
from services.engines.docker_api.api import Docker
from services.engines.pods.pulling import Images, LocalImage
from services.engines.unix_http import Refusal, shorten
from services.errors import FailedPrecondition, Internal

PAUSE = "beemesh/pause:1"
"""Ours: made when it is missing, and made anew when somebody has removed it."""


class DockerImages(Images):
    """The images of one daemon."""

    def __init__(self, docker: Docker, *, pull_timeout: float) -> None:
        super().__init__(backend="docker", pull_timeout=pull_timeout)
        self._docker = docker

    async def find(self, reference: str) -> LocalImage | None:
        """The image, if docker has it. Raises Unavailable, DeadlineExceeded."""
        try:
            found = await self._docker.image(reference)
        except Refusal as refusal:
            text = f"docker refused to tell of an image: {shorten(refusal.text)}"
            raise Internal(text, reason="BACKEND_ERROR") from refusal
        if found is None:
            return None
        return LocalImage(image_id=str(found["Id"]), digests=tuple(found.get("RepoDigests") or ()))

    def steps(self, reference: str, *, auth: str) -> AsyncIterator[Mapping[str, Any]]:
        """See `Docker.pull`."""
        return self._docker.pull(reference, auth=auth)


class PauseImage:
    """What the infra containers are made of."""

    def __init__(self, docker: Docker, *, named: str = "") -> None:
        """`named`: an image that docker has, instead of our own."""
        self._docker = docker
        self._reference = named or PAUSE
        self.is_own = not named
        self._making = asyncio.Lock()

    async def provide(self) -> str:
        """Have it; its reference. Raises Refusal, and FailedPrecondition where it cannot be had."""
        async with self._making:
            if await self._docker.image(self._reference) is not None:
                return self._reference
            if not self.is_own:
                raise FailedPrecondition(
                    f"the pause_image {self._reference} is not on this machine; pull it, or unset pause_image",
                    reason="IMAGE_NOT_FOUND",
                    metadata={"image": self._reference},
                )
            architecture = str((await self._docker.version()).get("Arch", ""))
            if architecture not in pause.ARCHITECTURES:
                raise FailedPrecondition(
                    f"there is no program to hold a pod's network on {architecture or 'this machine'}; set pause_image "
                    "to an image whose program sleeps for ever",
                    reason="IMAGE_NOT_FOUND",
                    metadata={"image": self._reference},
                )
            tar = pause.file_system(architecture)
            await self._docker.import_image(self._reference, tar, [f'ENTRYPOINT ["{pause.PROGRAM}"]'])
            return self._reference
