"""The room a manifest asks of a node, and the limits its containers get, annotation hints included.

`beemesh.io/resources.cpu` and `beemesh.io/resources.memory` are hints for one replica of the document that has them. A
hint is a ceiling where limits exist, and what they leave of it is split evenly over the containers that have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from services.manifests import quantities
from services.manifests.documents import Document, Manifest, violation
from services.manifests.findings import refusal
from services.manifests.kubernetes import pod_path
from services.manifests.lookup import mapping_at, mappings_in, value_at
from services.manifests.paths import Path

CPU_HINT = "beemesh.io/resources.cpu"
MEMORY_HINT = "beemesh.io/resources.memory"

COMPONENTS_MAX = 5_000
"""All told they are about 1.5 MB, which any client can read."""

Reader = Callable[[quantities.Amount], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What a deployment asks of its node, all replicas together."""

    cpu_cores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one container may use at most; None is no limit."""

    cpu_cores: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Container:
    """One resource of one container, in cores or bytes."""

    name: str
    limit: Fraction | None
    request: Fraction | None
    count: int = 1
    """Copies of it in one replica."""
    init: bool = False
    """Runs to its end before those after it start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    """One of the two resources: where each format writes it, and how it is read."""

    name: str
    hint: str
    compose_field: str
    compose_limit: str
    compose_reservation: str
    read: Reader
    read_compose: Reader


_CPU = _Resource(
    name="cpu",
    hint=CPU_HINT,
    compose_field="cpus",
    compose_limit="cpus",
    compose_reservation="",
    read=quantities.cpu,
    read_compose=quantities.cpu,
)
_MEMORY = _Resource(
    name="memory",
    hint=MEMORY_HINT,
    compose_field="memory",
    compose_limit="mem_limit",
    compose_reservation="mem_reservation",
    read=quantities.memory,
    read_compose=quantities.compose_memory,
)


def requested(manifest: Manifest, *, replicas: int | None = None) -> Requested:
    """The room the manifest asks for.

    `replicas` overrides a Deployment's own number and multiplies a Pod, VirtualMachine or Function; a Compose file
    scales its services itself. Raises InvalidArgument with the path and line of an amount that cannot be read.
    """
    return Requested(
        cpu_cores=round(float(_total(manifest, _CPU, replicas)), 6),
        memory_bytes=math.ceil(_total(manifest, _MEMORY, replicas)),
    )


def check_size(manifest: Manifest, *, replicas: int | None = None) -> None:
    """Raises InvalidArgument when it asks for more containers than a node makes of one manifest, replicas counted."""
    for document in manifest.documents:
        count = _components(document, replicas) if document.is_workload else 0
        if count > COMPONENTS_MAX:
            path: Path = ("services",) if document.kind == "Compose" else ("spec", "replicas")
            message = f"asks for {count:,} containers in all, a node makes at most {COMPONENTS_MAX:,} of one manifest"
            raise refusal(violation(document, path, message, "TOO_MANY_REPLICAS"))


def _components(document: Document, replicas: int | None) -> int:
    if document.kind == "Compose":
        services = mapping_at(document.body, ("services",)).values()
        return sum(_scale(service) if replicas is None else replicas for service in services)
    pod = pod_path(document.kind)
    fields = ("initContainers", "containers") if pod else ()
    parts = sum(len(list(mappings_in(document.body, (*(pod or ()), field)))) for field in fields) or 1
    return parts * _copies(document, replicas)


def scaled_to_zero(manifest: Manifest, *, replicas: int | None = None) -> bool:
    """Whether no replica of anything is wanted, by the override or by the manifest itself."""
    if replicas is not None:
        return replicas == 0
    workloads = [document for document in manifest.documents if document.is_workload]
    return all(document.kind == "Deployment" and _copies(document, None) == 0 for document in workloads)


def container_limits(document: Document) -> Mapping[str, Limits]:
    """The limits of each container of a Pod or Deployment by name, init containers included, after hints.

    Raises InvalidArgument for a hint that cannot be read.
    """
    cpu = _share(_containers(document, _CPU), hint(document, CPU_HINT))
    memory = _share(_containers(document, _MEMORY), hint(document, MEMORY_HINT))
    return {
        name: Limits(
            cpu_cores=None if cores is None else float(cores),
            memory_bytes=None if (size := memory[name]) is None else int(size),
        )
        for name, cores in cpu.items()
    }


def hint(document: Document, key: str) -> Fraction | None:
    """The cores or bytes that the annotation `key` gives, or None. Raises InvalidArgument if it cannot be read."""
    path = document.annotation_source(key)
    if path is None:
        return None
    read: Reader = quantities.cpu if key == CPU_HINT else quantities.memory
    amount = _read(document, path, document.beemesh_annotations()[key], read)
    if amount == 0:
        raise refusal(violation(document, path, "must be more than nothing", "BAD_VALUE"))
    return amount


def _total(manifest: Manifest, resource: _Resource, replicas: int | None) -> Fraction:
    workloads = [document for document in manifest.documents if document.is_workload]
    parts = (
        _copies(document, replicas) * _replica(_parts(document, resource), hint(document, resource.hint))
        for document in workloads
    )
    return sum(parts, Fraction(0))


def _copies(document: Document, replicas: int | None) -> int:
    if document.kind == "Compose":
        return 1
    if replicas is not None:
        return replicas
    own = value_at(document.body, ("spec", "replicas")) if document.kind == "Deployment" else 1
    return own if isinstance(own, int) else 1


def _parts(document: Document, resource: _Resource) -> Sequence[_Container]:
    if document.kind == "Compose":
        return _services(document, resource)
    if pod_path(document.kind):
        return _pod_level(document, resource) or _containers(document, resource)
    path: Path = ("spec", "vcpus" if document.kind == "VirtualMachine" and resource is _CPU else resource.name)
    return [_Container(name=document.kind, limit=_amount(document, path, resource.read), request=None)]


def _replica(containers: Sequence[_Container], ceiling: Fraction | None) -> Fraction:
    """What one replica asks for: Kubernetes' rule, over requests or, under a hint, over the limits after it."""
    shares = _share(containers, ceiling)
    running = highest = Fraction(0)
    for container in containers:
        asked = shares[container.name] or Fraction(0)
        if ceiling is None and container.request is not None:
            asked = container.request
        if container.init:
            highest = max(highest, running + asked)
        else:
            running += asked * container.count
    total = max(running, highest)
    return total if ceiling is None else min(total, ceiling)


def _share(containers: Sequence[_Container], ceiling: Fraction | None) -> dict[str, Fraction | None]:
    """Each container's limit, such that those that run together stay within the ceiling."""
    if ceiling is None:
        return {container.name: container.limit for container in containers}
    together = [container for container in containers if not container.init]
    own = sum((container.limit * container.count for container in together if container.limit is not None), Fraction(0))
    unlimited = sum(container.count for container in together if container.limit is None)
    everyone = sum(container.count for container in together)
    shares: dict[str, Fraction | None] = {}
    for container in containers:
        if container.init:
            shares[container.name] = ceiling if container.limit is None else min(container.limit, ceiling)
        elif unlimited and own >= ceiling:  # The limits leave nothing for the others: all get the same part at most.
            part = ceiling / everyone
            shares[container.name] = part if container.limit is None else min(container.limit, part)
        elif container.limit is None:
            shares[container.name] = (ceiling - own) / unlimited
        else:
            shares[container.name] = container.limit * min(Fraction(1), ceiling / own) if own else container.limit
    return shares


def _containers(document: Document, resource: _Resource) -> list[_Container]:
    pod = pod_path(document.kind)
    if pod is None:
        return []
    found: list[_Container] = []
    for field in ("initContainers", "containers"):
        for path, container in mappings_in(document.body, (*pod, field)):
            stays = field == "containers" or container.get("restartPolicy") == "Always"
            found.append(
                _Container(
                    name=str(container.get("name")),
                    limit=_amount(document, (*path, "resources", "limits", resource.name), resource.read),
                    request=_amount(document, (*path, "resources", "requests", resource.name), resource.read),
                    init=not stays,
                )
            )
    return found


def _pod_level(document: Document, resource: _Resource) -> Sequence[_Container]:
    """The pod's own resources, which count instead of its containers', as one container; else nothing."""
    path: Path = (*(pod_path(document.kind) or ()), "resources")
    limit = _amount(document, (*path, "limits", resource.name), resource.read)
    request = _amount(document, (*path, "requests", resource.name), resource.read)
    if limit is None and request is None:
        return ()
    return (_Container(name="pod", limit=limit, request=request),)


def _services(document: Document, resource: _Resource) -> list[_Container]:
    """The containers of a Compose project: each service as often as it is scaled."""
    found: list[_Container] = []
    for name, service in mapping_at(document.body, ("services",)).items():
        path: Path = ("services", name)
        settings: Path = (*path, "deploy", "resources")
        limits = [(*settings, "limits", resource.compose_field), (*path, resource.compose_limit)]
        reservations = [(*settings, "reservations", resource.compose_field), (*path, resource.compose_reservation)]
        limit, request = (_first(document, paths, resource.read_compose) for paths in (limits, reservations))
        if count := _scale(service):
            found.append(_Container(name=name, limit=limit, request=request, count=count))
    return found


def _scale(service: Mapping[str, Any]) -> int:
    for path in (("deploy", "replicas"), ("scale",)):
        value = value_at(service, path)
        if isinstance(value, int) and not isinstance(value, bool):
            return max(0, value)
    return 1


def _first(document: Document, paths: Sequence[Path], read: Reader) -> Fraction | None:
    amounts = (_amount(document, path, read) for path in paths)
    return next((amount for amount in amounts if amount is not None), None)


def _amount(document: Document, path: Path, read: Reader) -> Fraction | None:
    value = value_at(document.body, path)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    if document.kind == "Compose" and isinstance(value, str) and "$" in value:
        return None  # Only Compose itself can tell what its variables stand for.
    return _read(document, path, value, read)


def _read(document: Document, path: Path, value: quantities.Amount, read: Reader) -> Fraction:
    try:
        return Fraction(read(value))
    except ValueError as error:
        raise refusal(violation(document, path, str(error), "BAD_VALUE")) from None
