"""What containers use, from docker's counters. Pure but for the asking."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from services.engines.docker_api.api import Docker
from services.engines.docker_api.inspected import seconds
from services.engines.engine import ComponentStats

_NANO = 1e9

Counters = Mapping[str, Any]


async def sample(docker: Docker, containers: Sequence[str]) -> list[ComponentStats]:
    """One sample of each container that runs; docker measures for a second or two."""
    found = await asyncio.gather(*(docker.counters(container) for container in containers))
    return [
        read(container, counters)
        for container, counters in zip(containers, found, strict=True)
        if counters.get("memory_stats")  # docker tells nothing of what does not run
    ]


def read(container: str, counters: Counters) -> ComponentStats:
    """What docker says of one container: two looks, a second apart."""
    networks = counters.get("networks")
    received, sent = (None, None) if networks is None else (_sum(networks, "rx_bytes"), _sum(networks, "tx_bytes"))
    return ComponentStats(
        component_id=container,
        sample_time=seconds(counters.get("read")) or 0.0,
        cpu_cores=_cores(counters),
        memory_bytes=_memory(counters.get("memory_stats") or {}),
        network_rx_bytes=received,
        network_tx_bytes=sent,
    )


def _cores(counters: Counters) -> float | None:
    """None when there was no look before, or it was started anew in between."""
    begun, ended = seconds(counters.get("preread")), seconds(counters.get("read"))
    used = _used(counters, "cpu_stats") - _used(counters, "precpu_stats")
    if begun is None or ended is None or ended <= begun or used < 0:
        return None
    return used / _NANO / (ended - begun)


def _used(counters: Counters, which: str) -> int:
    return int(((counters.get(which) or {}).get("cpu_usage") or {}).get("total_usage") or 0)


def _memory(counters: Counters) -> int | None:
    """Without what the kernel may take back at any time, as `docker stats` tells it."""
    if "usage" not in counters:
        return None
    details = counters.get("stats") or {}
    reclaimable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, int(counters["usage"]) - int(reclaimable))


def _sum(networks: Mapping[str, Counters], name: str) -> int:
    return sum(int(network.get(name) or 0) for network in networks.values())
