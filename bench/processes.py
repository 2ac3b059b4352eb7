"""What processes use, read from /proc: memory, descriptors, CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes."""

    rss: int
    pss: int
    """Pages that several processes share count as a part each."""


def memory(pid: int) -> Memory:
    """Of one process."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":", 1)
        found[name] = int(value.split()[0]) * _KIB
    return Memory(rss=found["Rss"], pss=found["Pss"])


def descriptors(pid: int) -> int:
    """Open ones."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def cpu(pid: int, *, with_ended: bool = False) -> float:
    """Seconds of CPU so far; `with_ended` those too of children that have ended and were waited for. 0: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own, ended = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return (own + (ended if with_ended else 0)) / _TICK


def cpu_by(pids: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU by name."""
    return {name: cpu(pid) for name, pid in pids.items()}


def children(pid: int) -> list[int]:
    """Direct children, of all threads."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, task.read_text().split())
    return found


def named(program: str, word: str) -> list[int]:
    """Processes of this program with this word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        if Path(words[0]).name == program and word in words:
            found.append(int(path.parent.name))
    return found


def settle(pids: Iterable[int], *, seconds: float = 30.0, quiet: float = 0.3) -> None:
    """Wait until these processes do next to nothing, so that what one measuring has left does not burden the next."""
    watched: Collection[int] = list(pids)
    until = time.monotonic() + seconds
    before = sum(map(cpu, watched))
    while time.monotonic() < until:
        time.sleep(quiet)
        now = sum(map(cpu, watched))
        if now - before <= 0.1 * quiet:
            return
        before = now
