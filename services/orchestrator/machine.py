"""What this machine has, measured: the node's allocatable room."""

from __future__ import annotations

import os
from pathlib import Path

from services.orchestrator.ledger import Room


def measure(*, cpu: float = 0.0, memory: int = 0, meminfo: Path = Path("/proc/meminfo")) -> Room:
    """The cores this process may use and the machine's memory; what the settings say instead, if they do."""
    return Room(
        cpu_cores=cpu or float(len(os.sched_getaffinity(0))),
        memory_bytes=memory or _memory_total(meminfo.read_text()),
    )


def _memory_total(meminfo: str) -> int:
    """Bytes, from the text of /proc/meminfo (its unit is KiB)."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    raise ValueError("no MemTotal in /proc/meminfo")
