"""How big this machine is, from the operating system."""

from __future__ import annotations

import os
from pathlib import Path

from services.engines.engine import Resources


def measure(*, meminfo: Path = Path("/proc/meminfo")) -> Resources:
    """All its CPUs and memory; what cannot be measured stays unsaid."""
    return Resources(cpu_cores=os.cpu_count(), memory_bytes=_memory(meminfo))


def _memory(meminfo: Path) -> int | None:
    try:
        text = meminfo.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    return None
