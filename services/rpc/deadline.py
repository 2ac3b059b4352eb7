"""The deadline of the request being served, handed on to every call made for it."""

from __future__ import annotations

import time
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("beemesh_deadline", default=None)


def enter(remaining: float | None) -> None:
    """Begin serving a request that has `remaining` seconds left; None means it has no deadline."""
    _deadline.set(None if remaining is None else time.monotonic() + remaining)


def budget(seconds: float) -> float:
    """The timeout for one call: `seconds`, or what is left of the served request's deadline if that is less."""
    deadline = _deadline.get()
    return seconds if deadline is None else max(0.001, min(seconds, deadline - time.monotonic()))


def detach() -> None:
    """Work from here on outlives the request: its deadline no longer bounds the calls made."""
    _deadline.set(None)
