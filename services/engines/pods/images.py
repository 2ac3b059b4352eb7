"""Images: what the references in manifests mean, and when they are pulled. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.errors import FailedPrecondition

_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
_REFERENCE = re.compile(
    rf"(?P<host>{_HOST}(?::[0-9]+)?)/(?P<path>{_PATH}(?:/{_PATH})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>[a-z0-9+._-]+:[0-9a-fA-F]{32,}))?"
)
_MAX_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that a pod needs, and when to pull it."""

    reference: str
    """In full."""
    policy: str
    """The manifest's imagePullPolicy; empty where it gives none."""


def image_of(container: Mapping[str, Any]) -> Image:
    """A container's; raises FailedPrecondition(IMAGE_NOT_FOUND) for what cannot be one."""
    try:
        return Image(reference=full_reference(container.get("image", "")), policy=container.get("imagePullPolicy", ""))
    except ValueError as error:
        raise FailedPrecondition(
            f"container {container['name']}: {error}", reason="IMAGE_NOT_FOUND", metadata={"image": container["image"]}
        ) from error


def full_reference(image: str) -> str:
    """The reference that is meant: `busybox` is `docker.io/library/busybox:latest`. Raises ValueError."""
    first, slash, rest = image.partition("/")
    if not slash:
        named = f"docker.io/library/{image}"
    elif "." in first or ":" in first or first == "localhost":
        named = f"docker.io/library/{rest}" if first == "docker.io" and "/" not in rest else image
    else:
        named = f"docker.io/{image}"
    match = _REFERENCE.fullmatch(named)
    if match is None or len(match["host"]) + len(match["path"]) > _MAX_NAME:
        raise ValueError(
            f'"{image[:80]}" is not an image reference such as busybox, ghcr.io/org/app:1 or name@sha256:…'
        )
    if match["digest"]:  # the tag beside it says nothing more, and podman 4 does not take both
        return f"{match['host']}/{match['path']}@{match['digest']}"
    return named if match["tag"] else f"{named}:latest"


def pull_policy(reference: str, asked: str) -> str:
    """When to pull, for an imagePullPolicy; unset is `newer` for `:latest`, as podman plays it, else `missing`.

    `newer` asks the registry, and is content with the local image when the registry cannot be reached.
    """
    if asked:
        return {"Always": "always", "IfNotPresent": "missing", "Never": "never"}[asked]
    return "newer" if reference.endswith(":latest") else "missing"


def pinned(reference: str, digest: str) -> str:
    """The reference with this digest instead of its tag, or of the digest that it has."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"
