"""From a Pod manifest to the pods that podman is asked to play; only what the engine honours is carried over. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.engine import Resources, Spec
from services.engines.podman.fields import KINDS
from services.engines.podman.images import full_reference
from services.errors import FailedPrecondition
from services.identity import replica_name
from services.manifests import Document, quantities
from services.manifests.resources import Limits, container_limits

LABEL_GRACE = "beemesh.io/grace-seconds"
"""The pod's grace period: podman before 4.7 forgets it, and no version shows it in a list."""

DEFAULT_GRACE_SECONDS = 30
_EXPANDS_SINCE = (4, 7)
"""From here on podman expands `$(NAME)` in commands itself, with more variables than Kubernetes would."""

_MIN_CORES = 0.01
"""The kernel's smallest CPU quota, 1 ms in 100 ms; the kubelet raises smaller limits to it too."""

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_HOSTNAME_MAX = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the pod needs, and when to pull it."""

    reference: str
    """In full."""
    policy: str
    """The manifest's imagePullPolicy; empty where it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What is posted to podman."""

    pods: tuple[dict[str, Any], ...]
    """One for each replica."""
    annotations: Mapping[str, str]
    images: tuple[Image, ...]
    """Each once."""


def render(spec: Spec, *, backend_version: tuple[int, ...]) -> Play:
    """Write the pods of a workload for this version of podman.

    Raises FailedPrecondition for what `check` finds and cannot be left out even by a caller who accepts losses.
    """
    document = _pod(spec)
    images = [Image(reference=_reference(c), policy=c.get("imagePullPolicy", "")) for c in _containers(document)]
    replicas = 1 if spec.config.replicas is None else spec.config.replicas
    limits = _limits(spec, document)
    containers = [
        _container(container, spec.config.env, limits[container["name"]], expands=backend_version >= _EXPANDS_SINCE)
        for container in _containers(document)
    ]
    return Play(
        pods=tuple(_replica(spec, document, containers, number) for number in range(replicas)),
        annotations=document.annotations,
        images=tuple(dict.fromkeys(images)),
    )


def _pod(spec: Spec) -> Document:
    pods = [document for document in spec.manifest.documents if document.kind in KINDS]
    if len(pods) != 1:
        raise FailedPrecondition(
            f"workload {spec.workload_id}: engine podman runs one Pod a deployment, the manifest has {len(pods)}",
            reason="UNSUPPORTED_KIND",
        )
    return pods[0]


def _containers(document: Document) -> Sequence[Mapping[str, Any]]:
    containers: Sequence[Mapping[str, Any]] = document.body["spec"]["containers"]
    return containers


def _replica(spec: Spec, document: Document, containers: Sequence[object], number: int) -> dict[str, Any]:
    pod: Mapping[str, Any] = document.body["spec"]
    grace = pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
    labels = {**document.labels, **spec.config.labels, **spec.ownership.labels(), LABEL_GRACE: str(grace)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": replica_name(spec.workload_id, number), "labels": labels},
        "spec": {
            "restartPolicy": pod.get("restartPolicy", "Always"),
            # podman would take the pod's name, which is ours; inside, the manifest's counts.
            "hostname": pod.get("hostname") or document.name[:_HOSTNAME_MAX].rstrip("-."),
            "terminationGracePeriodSeconds": grace,
            "containers": containers,
        },
    }


def _container(
    container: Mapping[str, Any], extra_env: Mapping[str, str], limits: Limits, *, expands: bool
) -> dict[str, Any]:
    env = environment(container.get("env") or [], extra_env)
    made: dict[str, Any] = {
        "name": container["name"],
        "image": _reference(container),
        "imagePullPolicy": "Never",  # the engine has pulled it, and told that failure from a failed start
        "env": [{"name": name, "value": value} for name, value in env.items()],
        # Without a hostPort nothing is to be published, but podman before 4.7 would take the containerPort for it.
        "ports": [_port(port) for port in container.get("ports") or [] if port.get("hostPort")],
        "resources": _resources(container, limits),
    }
    if container.get("workingDir"):
        made["workingDir"] = container["workingDir"]
    for field in ("command", "args"):
        if container.get(field):
            words = [expand(word, env) for word in container[field]]
            made[field] = [word.replace("$", "$$") for word in words] if expands else words
    return made


def environment(entries: Sequence[Mapping[str, Any]], extra: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container in order; `$(NAME)` refers to earlier ones; the caller's `extra` win."""
    env: dict[str, str] = {}
    for entry in entries:
        if "valueFrom" not in entry:
            env[entry["name"]] = expand(str(entry.get("value", "")), env)
    return {**env, **extra}


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does: unknown names stay as they are, `$$` is a `$` that starts no reference."""

    def one(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else env.get(name, match[0])

    return _REFERENCE.sub(one, text)


def _reference(container: Mapping[str, Any]) -> str:
    try:
        return full_reference(container.get("image", ""))
    except ValueError as error:
        raise FailedPrecondition(
            f"container {container['name']}: {error}", reason="IMAGE_NOT_FOUND", metadata={"image": container["image"]}
        ) from error


def _port(port: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: port[name] for name in ("containerPort", "hostPort", "hostIP") if port.get(name)}
    return {**kept, "protocol": port.get("protocol") or "TCP"}


def _resources(container: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    requests = (container.get("resources") or {}).get("requests") or {}
    given: dict[str, str] = {}
    if limits.cpu_cores is not None:
        given["cpu"] = _millicores(max(limits.cpu_cores, _MIN_CORES))
    if limits.memory_bytes is not None:
        given["memory"] = str(limits.memory_bytes)
    asked = {"memory": str(quantities.memory(requests["memory"]))} if "memory" in requests else {}
    if asked and limits.memory_bytes is not None:
        asked["memory"] = str(min(int(asked["memory"]), limits.memory_bytes))
    if "cpu" in requests:
        asked["cpu"] = _millicores(quantities.cpu(requests["cpu"]))
    return {"limits": given, "requests": asked}


def _millicores(cores: float) -> str:
    """Rounded up to a thousandth of a core; 0.1, which no float is exactly, is 100m."""
    return f"{math.ceil(round(cores * 1000, 6))}m"


def _limits(spec: Spec, document: Document) -> Mapping[str, Limits]:
    """The manifest's limits, its hints counted in, under the ceiling that the caller's config sets for a replica."""
    limits = container_limits(document)
    room: Resources = spec.config.resources
    cores = under([limit.cpu_cores for limit in limits.values()], room.cpu_cores)
    memory = under([limit.memory_bytes for limit in limits.values()], room.memory_bytes)
    return {
        name: Limits(cpu_cores=core, memory_bytes=None if size is None else int(size))
        for name, core, size in zip(limits, cores, memory, strict=True)
    }


def under(limits: Sequence[float | None], ceiling: float | None) -> list[float | None]:
    """Limits that together stay under the ceiling: given ones shrink alike, the others share evenly what is left."""
    if ceiling is None:
        return list(limits)
    own = sum(limit for limit in limits if limit is not None)
    unlimited = sum(limit is None for limit in limits)
    if unlimited and own >= ceiling:
        part = ceiling / len(limits)
        return [part if limit is None else min(limit, part) for limit in limits]
    share = (ceiling - own) / unlimited if unlimited else 0.0
    factor = min(1.0, ceiling / own) if own else 1.0
    return [share if limit is None else limit * factor for limit in limits]
