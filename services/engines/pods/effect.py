"""What can be changed without making anew: how many replicas there are, and what nobody inside can see. Pure."""

from __future__ import annotations

from services.engines.diff import described, scales
from services.engines.engine import Change
from services.manifests import Manifest
from services.manifests.resources import CPU_HINT, MEMORY_HINT

_EFFECTIVE_PREFIXES = ("io.podman.", "io.containers.", "io.kubernetes.", "run.oci.", "org.criu.", "org.systemd.")
"""Annotations by which container engines, their runtimes and hooks are steered."""


def effect(change: Change, manifest: Manifest) -> str:
    """Replicas, a Deployment's own labels, and annotations that nothing reads need no new instance.

    No backend rewrites labels: those of a pod are replaced with it. A pod's annotations are kept in our record; the
    backend's copy stays as it was.
    """
    kind, key = described(change)
    if scales(change):
        return ""
    if kind == "labels":
        return "" if change.kind == "Deployment" and change.path[0] == "metadata" else "replace"
    if kind != "annotations" or key in (CPU_HINT, MEMORY_HINT) or key.startswith(_EFFECTIVE_PREFIXES):
        return "replace"
    return "replace" if any(_reads_annotations(document.body) for document in manifest.documents) else ""


def _reads_annotations(value: object) -> bool:
    """Whether a variable or file is made from annotations."""
    if isinstance(value, dict):
        path = value.get("fieldPath")
        if isinstance(path, str) and path.startswith("metadata.annotations"):
            return True
        return any(_reads_annotations(each) for each in value.values())
    return isinstance(value, list) and any(_reads_annotations(each) for each in value)
