"""Whether docker's storage is before our eyes, and the fields of a manifest that need it to be. Pure but for a look."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.engines.engine import Config, Issue
from services.engines.pods.findings import UNSUPPORTED_FIELD, found
from services.engines.pods.workload import templates
from services.manifests import Manifest

_READ_ONLY = ("configMap", "secret", "downwardAPI", "projected")
"""Volumes of which only files are mounted, and those the engine has put there."""
_HOST_PATH = "hostPath"


def is_in_reach(root: Path | None) -> bool:
    """Whether this process may write where docker keeps its volumes; `root` is docker's, None while nobody knows it."""
    if root is None:
        return True  # what cannot be done is refused when it is tried
    try:
        return os.geteuid() == 0 and (root / "volumes").stat().st_uid == 0
    except OSError:
        return False


def parts(manifest: Manifest, config: Config) -> Iterator[Issue]:
    """Every part of a volume that would have to be made in docker's storage: docker 20.10 itself mounts whole ones."""
    for template in templates(manifest, config):
        wanted = {volume["name"] for _, volume in template.volumes() if _is_writable(volume)}
        for path, container in template.containers():
            for number, mount in enumerate(container.get("volumeMounts") or ()):
                for field in ("subPath", "subPathExpr"):
                    if mount.get(field) and mount["name"] in wanted:
                        message = "a part of a volume needs an engine that runs as root on docker's own machine"
                        at = (*path, "volumeMounts", number, field)
                        yield found(template.document, at, message, UNSUPPORTED_FIELD).issue()


def _is_writable(volume: Mapping[str, Any]) -> bool:
    return not any(source in volume for source in (*_READ_ONLY, _HOST_PATH))
