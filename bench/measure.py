"""Interleaved measuring: each round times every contender once, so that a busy machine is unfair to all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from bench import report


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


def ratios(found: Mapping[str, Sequence[float]], name: str, *, against: str) -> list[float]:
    """What one contender took in each round, as a multiple of what the other took in the same round."""
    return [mine / theirs for mine, theirs in zip(found[name], found[against], strict=True)]


def table(found: Mapping[str, Sequence[float]], *, against: str) -> str:
    """Medians in milliseconds with their spread, and each round's ratio to the contender `against`."""
    rows = [
        [
            name,
            report.spread(seconds, scale=1000),
            "1" if name == against else report.spread(ratios(found, name, against=against), digits=2),
            f"{statistics.median(seconds) / statistics.median(found[against]):.2f}",
        ]
        for name, seconds in found.items()
    ]
    return report.table(["what", "median ms (min–max)", "ratio by round", "ratio of medians"], rows)
