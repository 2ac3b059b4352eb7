"""Image references: a bare name means docker.io/library, and every reference is written out in full."""

from __future__ import annotations

import re

_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
_REFERENCE = re.compile(
    rf"(?P<host>{_HOST}(?::[0-9]+)?)/(?P<path>{_PATH}(?:/{_PATH})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>[a-z0-9+._-]+:[0-9a-fA-F]{32,}))?"
)
_MAX_NAME = 255


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
    return named if match["tag"] or match["digest"] else f"{named}:latest"


def pull_policy(reference: str, asked: str) -> str:
    """Podman's word for an imagePullPolicy; unset is `newer` for `:latest`, as podman itself plays it, else `missing`.

    `newer` asks the registry, and is content with the local image when the registry cannot be reached.
    """
    if asked:
        return {"Always": "always", "IfNotPresent": "missing", "Never": "never"}[asked]
    return "newer" if reference.endswith(":latest") else "missing"
