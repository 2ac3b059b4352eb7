"""What containers use, from two looks at podman's counters: its own percentage is an average since the start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from services.engines.engine import ComponentStats
from services.engines.podman.containers import Containers

_BETWEEN_SECONDS = 0.25
_NETWORK_RIGHT_SINCE = (4, 4)
"""Before, podman tells received bytes as sent and sent ones as received (podman#16618)."""
_NANO = 1e9

Counters = Mapping[str, Any]


async def sample(
    containers: Containers, ids: Sequence[str], *, backend_version: tuple[int, ...]
) -> list[ComponentStats]:
    """One sample of each container that runs; takes a quarter of a second. Raises Refusal when one is gone."""
    if not ids:
        return []
    first = {entry["ContainerID"]: entry for entry in await containers.stats(ids)}
    await asyncio.sleep(_BETWEEN_SECONDS)
    return [
        read(first.get(entry["ContainerID"], {}), entry, backend_version=backend_version)
        for entry in await containers.stats(ids)
        if entry.get("SystemNano")  # podman tells all zeros of what does not run
    ]


def read(first: Counters, second: Counters, *, backend_version: tuple[int, ...]) -> ComponentStats:
    """What two looks at one container say."""
    received, sent = _network(second, backend_version)
    return ComponentStats(
        component_id=second["ContainerID"],
        sample_time=second["SystemNano"] / _NANO,
        cpu_cores=_cores(first, second),
        memory_bytes=int(second["MemUsage"]),
        network_rx_bytes=received,
        network_tx_bytes=sent,
    )


def _cores(first: Counters, second: Counters) -> float | None:
    """None when it was started anew in between, or its clock stood still."""
    used = second["CPUNano"] - first.get("CPUNano", 0)
    passed = second["SystemNano"] - first.get("SystemNano", 0)
    return used / passed if first and passed > 0 and used >= 0 else None


def _network(entry: Counters, backend_version: tuple[int, ...]) -> tuple[int | None, int | None]:
    """Bytes received and sent; since podman 5 they stand apart for each network."""
    if (networks := entry.get("Network")) is not None:
        return sum(n.get("RxBytes", 0) for n in networks.values()), sum(n.get("TxBytes", 0) for n in networks.values())
    if "NetInput" not in entry:
        return None, None
    received, sent = int(entry["NetInput"]), int(entry["NetOutput"])
    return (received, sent) if backend_version >= _NETWORK_RIGHT_SINCE else (sent, received)
