"""Interleaved measuring: each round times every contender once, so that a busy machine is unfair to all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def interleaved(contenders: Mapping[str, Callable[[], float]], *, rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds by contender; `warm` rounds are thrown away. Each contender returns the seconds that it took."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm + rounds):
        for name, run in contenders.items():
            seconds = run()
            if number >= warm:
                found[name].append(seconds)
    return found


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(found: Mapping[str, Sequence[float]], *, against: str) -> str:
    """Medians in milliseconds, and each as a ratio to the contender `against`."""
    base = statistics.median(found[against])
    rows = ["| what | median ms | min–max ms | ratio |", "|---|---|---|---|"]
    for name, seconds in found.items():
        median = statistics.median(seconds)
        span = f"{min(seconds) * 1000:.0f}–{max(seconds) * 1000:.0f}"
        rows.append(f"| {name} | {median * 1000:.0f} | {span} | {median / base:.2f} |")
    return "\n".join(rows)
