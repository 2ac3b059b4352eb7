"""Calls with a stream of requests: one that ends while a request is on its way ends with the server's own status.

grpc.aio makes INTERNAL "Internal error from Core" of the send that then fails, and what the server said is lost.
"""

from __future__ import annotations

from typing import Any, TypeVar

C = TypeVar("C")


def heard_out(call: C) -> C:
    """The call; a failed send waits for the server's status. To be done before anything was sent or awaited."""
    inner: Any = call
    inner._cython_call = _Patient(inner._cython_call)
    return call


class _Patient:
    """grpc's own end of the call, but for the one thing."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, _details: str) -> None:
        """A send fails only because the call has ended: its status is about to be read."""
