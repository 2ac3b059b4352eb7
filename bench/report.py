"""What a bench has found, as Markdown, and the places in a document that hold it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One bench's finding."""

    body: str
    """Markdown."""
    failed: tuple[str, ...] = ()
    """What must not be at all, such as a leak: it fails the run. A goal that was missed stands in the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much a run takes upon itself."""

    tiny: bool = False
    """Only as much as shows that the bench runs; its figures mean nothing."""

    def of(self, full: int, tiny: int) -> int:
        """A number of rounds, deployments or seconds."""
        return tiny if self.tiny else full


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Sequence[float], *, digits: int = 0, scale: float = 1.0) -> str:
    """The median, and least and most beside it."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median * scale:.{digits}f} ({low * scale:.{digits}f}–{high * scale:.{digits}f})"


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that so many percent of all do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def verdict(reached: bool) -> str:
    """Whether a goal was reached."""
    return "yes" if reached else "**no**"


def put(document: str, name: str, body: str) -> str:
    """The document with `body` between the markers of `name`; raises ValueError when it has none."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    before, found, rest = document.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"there is no {start} … {end}")
    return f"{before}{start}\n\n{body.strip()}\n\n{end}{after}"
