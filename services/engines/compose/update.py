"""What docker can change without making all of a workload anew: replicas, and single services. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.engines.compose.runner import Project
from services.engines.diff import described, scales
from services.engines.engine import Change, ChangeAction
from services.identity import LABEL_MANIFEST_HASH
from services.manifests import Manifest
from services.manifests.resources import CPU_HINT, MEMORY_HINT

_UNSEEN = ("version", "name")
_SERVICES = "services"


def effect(change: Change, manifest: Manifest) -> str:
    """Compose makes anew only the services that differ: a change of one among several ends that one alone.

    With a single service that is all of the workload, so that a change of it replaces.
    """
    kind, key = described(change)
    if scales(change) or (change.kind == "Compose" and change.path[::2] == (_SERVICES, "scale")):
        return ""
    if kind == "annotations":
        return "replace" if key in (CPU_HINT, MEMORY_HINT) else ""
    if change.kind != "Compose" or not change.path:
        return "replace"
    top = str(change.path[0])
    if top in _UNSEEN or (top.startswith("x-") and top != "x-beemesh"):
        return ""
    if top != _SERVICES:
        return "replace"
    if change.action in (ChangeAction.CREATE, ChangeAction.REMOVE):
        return ""
    return "restart" if len(manifest.primary.body.get(_SERVICES) or {}) > 1 else "replace"


def keeping(old: Project | None, new: Project, manifest_hash: str) -> Project:
    """The new project, in which only services that differ from the old one carry the new hash.

    Both were stamped with the hashes of what is there; a service that changes in nothing else must not change in that.
    """
    before: Mapping[str, Any] = old.model.get(_SERVICES) or {} if old else {}
    services = {
        name: service if _plain(before.get(name)) == _plain(service) else _marked(service, manifest_hash)
        for name, service in (new.model.get(_SERVICES) or {}).items()
    }
    return replace(new, model={**new.model, _SERVICES: services})


def _plain(service: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Without how many there are."""
    if service is None:
        return None
    labels = {key: value for key, value in service["labels"].items() if key != LABEL_MANIFEST_HASH}
    kept = {key: value for key, value in service.items() if key not in ("scale", "labels")}
    return {**kept, "labels": labels}


def _marked(service: Mapping[str, Any], manifest_hash: str) -> dict[str, Any]:
    return {**service, "labels": {**service["labels"], LABEL_MANIFEST_HASH: manifest_hash}}
