"""What processes use, from /proc."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_WINDOW_SECONDS = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of several processes together."""

    cpu_cores: float
    memory_bytes: int
    """Their own; what they share (compiled code, libraries) is not counted."""


async def measure(pids: Sequence[int], *, proc: Path = Path("/proc")) -> Usage:
    """Over a tenth of a second; processes that end meanwhile count for nothing."""
    before = {pid: _cpu_seconds(proc, pid) for pid in pids}
    await asyncio.sleep(_WINDOW_SECONDS if pids else 0)
    spent = sum(max(0.0, _cpu_seconds(proc, pid) - began) for pid, began in before.items())
    return Usage(cpu_cores=spent / _WINDOW_SECONDS, memory_bytes=sum(_memory(proc, pid) for pid in pids))


def _cpu_seconds(proc: Path, pid: int) -> float:
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(proc: Path, pid: int) -> int:
    try:
        _, resident, shared = (proc / str(pid) / "statm").read_text().split()[:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE
