"""What supervision does to the backend, and how long it waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.engines.probe_handlers import Target
from services.engines.probes import Finding
from services.engines.restarts import BackOff


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorLimits:
    """How long things wait, in seconds."""

    back_off: BackOff = field(default_factory=BackOff)
    poll: float = 10.0
    """Between two readings when nothing hints at a change, and nobody else reads."""
    settle: float = 0.25
    """After a hint, so that many make one reading, and somebody else's may do."""
    reopen: float = 1.0
    """Before a broken event stream is opened anew."""
    stop_retry: float = 2.0
    """Before the backend is asked again to stop an unhealthy container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acts:
    """What the engine does for its supervisor; all raise Refusal and BeemeshError."""

    read: Callable[[], Awaitable[object]]
    """Reads all of the backend, and calls `see` with it."""
    forget_inspection: Callable[[str], object]
    """Told that what was last read of a container may be of an earlier run."""
    start: Callable[[str], Awaitable[object]]
    """Starts a container."""
    post_start: Callable[[str], Awaitable[Finding]]
    """Runs the hook of a container that has just been started."""
    stop: Callable[[str, float], Awaitable[object]]
    """Gives a container so many seconds to end."""


class Dialer(Target, Protocol):
    """A `Target` that keeps the addresses of pods, until it is told that they may be others."""

    def forget(self, component_id: str) -> None:
        """It is gone, or runs anew."""
