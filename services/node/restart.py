"""How long to wait before a service that ended is started again: a table, and what resets it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

STEPS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the first, second, … restart in a row; the last one is for all that follow."""

STEADY_SECONDS = 30.0
"""A service that was up this long is sound: its next failure counts as the first."""

TELL_AFTER = 3
"""So many failures in a row are a service that cannot run, and are said as such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The failures of one service so far."""

    failures: int = 0
    """In a row."""
    steps: tuple[float, ...] = STEPS

    def after(self, uptime: float) -> Backoff:
        """The service ended after `uptime` seconds."""
        return replace(self, failures=1 if uptime >= STEADY_SECONDS else self.failures + 1)

    @property
    def delay(self) -> float:
        """Seconds to wait now."""
        return self.steps[min(max(self.failures, 1), len(self.steps)) - 1]

    @property
    def hopeless(self) -> bool:
        """Whether an operator should be told: it is tried on all the same."""
        return self.failures >= TELL_AFTER
