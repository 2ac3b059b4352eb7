"""What the containers of a pod may use, and are promised, in the kernel's numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.engine import Resources
from services.engines.pods.workload import Template
from services.manifests import quantities
from services.manifests.resources import Limits, container_limits

CPU_PERIOD = 100_000
"""Microseconds of which a quota of the CPU is a part."""
_MIN_CORES = 0.01
"""The kernel's smallest CPU quota, 1 ms in 100 ms; the kubelet raises smaller limits to it too."""
_SHARES_PER_CORE = 1024
_MIN_SHARES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One container's limits and requests; None where there is none."""

    memory_bytes: int | None
    memory_wanted: int | None
    """Within the limit."""
    cpu_quota: int | None
    """Of `CPU_PERIOD`."""
    cpu_shares: int | None
    """When the CPU is fought for."""


def room_of(container: Mapping[str, Any], limits: Limits) -> Room:
    """The room of a container under these limits."""
    requests = (container.get("resources") or {}).get("requests") or {}
    wanted = quota = shares = None
    if "memory" in requests:
        asked = quantities.memory(requests["memory"])
        wanted = asked if limits.memory_bytes is None else min(asked, limits.memory_bytes)
    if limits.cpu_cores is not None:
        quota = math.ceil(round(max(limits.cpu_cores, _MIN_CORES) * CPU_PERIOD, 3))
    if "cpu" in requests:
        shares = max(_MIN_SHARES, math.ceil(quantities.cpu(requests["cpu"]) * _SHARES_PER_CORE))
    return Room(memory_bytes=limits.memory_bytes, memory_wanted=wanted, cpu_quota=quota, cpu_shares=shares)


def limits_of(template: Template, room: Resources) -> Mapping[str, Limits]:
    """The manifest's limits, its hints counted in, under the ceiling that the caller's config sets for a replica."""
    given = container_limits(template.document)
    running = [container["name"] for container in template.mains]
    cores = under([given[name].cpu_cores for name in running], room.cpu_cores)
    memory = under([given[name].memory_bytes for name in running], room.memory_bytes)
    made = {
        name: Limits(cpu_cores=core, memory_bytes=None if size is None else int(size))
        for name, core, size in zip(running, cores, memory, strict=True)
    }
    for container in template.inits:  # they run one by one, so each may have it all
        own = given[container["name"]]
        (core,), (size,) = under([own.cpu_cores], room.cpu_cores), under([own.memory_bytes], room.memory_bytes)
        made[container["name"]] = Limits(cpu_cores=core, memory_bytes=None if size is None else int(size))
    return made


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
