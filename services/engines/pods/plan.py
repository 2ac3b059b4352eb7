"""What a workload comes to on a backend: pods, their containers, volumes and images. Pure data.

Each backend writes what it is asked in words of its own, the `body`; all else is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.engines.pods.images import Image
from services.engines.pods.volumes import Mount, Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a pod."""

    name: str
    """The manifest's."""
    body: Mapping[str, Any] = field(repr=False)
    """What is posted, but for the pod, the user and the mounts; it may hold values of Secrets."""
    image: str
    """In full."""
    user: str
    """`user`, `user:group`, or `:group` where the user is the image's; empty where nothing is said."""
    mounts: tuple[Mount, ...]
    not_root: bool
    """The image's user must not be root."""
    post_start: Mapping[str, Any] | None = None
    """A container of the manifest with a hook to be run right after the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One replica."""

    name: str
    number: int
    body: Mapping[str, Any]
    inits: tuple[Container, ...]
    """To be run one after the other, before the others."""
    mains: tuple[Container, ...]

    def container_name(self, container: Container) -> str:
        """The backend's name of one of its containers."""
        return f"{self.name}-{container.name}"

    def volumes(self) -> list[Volume]:
        """The volumes that its containers mount, each once."""
        mounts = [mount for container in (*self.inits, *self.mains) for mount in container.mounts]
        found = {mount.source.name: mount.source for mount in mounts if isinstance(mount.source, Volume)}
        return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a backend is asked for."""

    workload_id: str
    pods: tuple[Pod, ...]
    images: tuple[Image, ...]
    """Each once."""
