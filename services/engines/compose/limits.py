"""What each container of a Compose project may use, under the ceilings that hints and config set. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.engine import Resources
from services.manifests import Document
from services.manifests.resources import CPU_HINT, MEMORY_HINT, Limits, hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One service's part of one resource."""

    own: float | None
    """What each of its containers may use by the file; None: no limit."""
    count: int


def limits(model: Mapping[str, Any], document: Document, room: Resources) -> dict[str, Limits]:
    """By service of a resolved project; all its containers together stay under each ceiling.

    Raises InvalidArgument for a hint that cannot be read.
    """
    services: dict[str, Any] = model.get("services") or {}
    counts = [_count(service) for service in services.values()]
    cpu_hint, memory_hint = hint(document, CPU_HINT), hint(document, MEMORY_HINT)
    cpus = _under([_own(s, "cpus", "cpus") for s in services.values()], counts, [cpu_hint, room.cpu_cores])
    sizes = _under(
        [_own(s, "memory", "mem_limit") for s in services.values()], counts, [memory_hint, room.memory_bytes]
    )
    return {
        name: Limits(cpu_cores=cores, memory_bytes=None if size is None else int(size))
        for name, cores, size in zip(services, cpus, sizes, strict=True)
    }


def _under(own: Sequence[float | None], counts: Sequence[int], ceilings: Sequence[Any]) -> list[float | None]:
    found = list(own)
    for ceiling in ceilings:
        if ceiling is not None:
            shares = [Share(own=limit, count=count) for limit, count in zip(found, counts, strict=True)]
            found = under(shares, float(ceiling))
    return found


def under(shares: Sequence[Share], ceiling: float) -> list[float | None]:
    """Limits that together stay under the ceiling: given ones shrink alike, the others share evenly what is left."""
    given = sum(share.own * share.count for share in shares if share.own is not None)
    unlimited = sum(share.count for share in shares if share.own is None)
    if unlimited and given >= ceiling:
        part = ceiling / sum(share.count for share in shares)
        return [part if share.own is None else min(share.own, part) for share in shares]
    rest = (ceiling - given) / unlimited if unlimited else None
    factor = min(1.0, ceiling / given) if given else 1.0
    return [rest if share.own is None else share.own * factor for share in shares]


def _own(service: Mapping[str, Any], name: str, short: str) -> float | None:
    """Compose has resolved it to a number of cores or bytes."""
    resources = (service.get("deploy") or {}).get("resources") or {}
    value = (resources.get("limits") or {}).get(name) or service.get(short)
    return float(value) if value else None


def _count(service: Mapping[str, Any]) -> int:
    replicas = (service.get("deploy") or {}).get("replicas")
    found = service.get("scale") if replicas is None else replicas
    return 1 if found is None else int(found)
