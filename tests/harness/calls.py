"""Watches the RPCs that the services of this process serve: which handlers are at work, who has no deadline."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from services.rpc.interceptors import ServingInterceptor

_OPEN_ENDED = ("/grpc.health.v1.Health/Watch", "/grpc.reflection.")
"""Not ours to call."""


class Calls:
    """What is being served, over all servers that were made within `watched()`."""

    def __init__(self) -> None:
        self.busy: Counter[str] = Counter()
        """Handlers that have begun and not ended, by method path."""
        self.served: Counter[str] = Counter()
        """Handlers that have begun, by method path."""
        self.endless: set[str] = set()
        """Methods that were called without a deadline."""

    async def until(self, method: str, busy: int, *, seconds: float = 10.0) -> None:
        """Wait until so many handlers of the method are at work; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.busy[method] != busy:
                await asyncio.sleep(0.005)

    @contextmanager
    def serving(self, method: str, context: Any) -> Iterator[None]:
        """One handler is at work within the block."""
        if context.time_remaining() is None and not method.startswith(_OPEN_ENDED):
            self.endless.add(method)
        self.busy[method] += 1
        self.served[method] += 1
        try:
            yield
        finally:
            self.busy[method] -= 1


@contextmanager
def watched() -> Iterator[Calls]:
    """Servers made within the block report what they serve; at its end every call must have had a deadline."""
    calls = Calls()

    class Watched(ServingInterceptor):
        async def intercept_service(
            self,
            continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
            handler_call_details: grpc.HandlerCallDetails,
        ) -> grpc.RpcMethodHandler[Any, Any] | None:
            handler = await super().intercept_service(continuation, handler_call_details)
            return handler and _reporting(handler, str(handler_call_details.method), calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.rpc.server.ServingInterceptor", Watched)
        yield calls
    assert calls.endless == set(), "called without a deadline"


def _reporting(handler: Any, method: str, calls: Calls) -> Any:
    """The same handler, which says when it begins and ends."""

    def unary(behavior: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            with calls.serving(method, context):
                return await behavior(request, context)

        return call

    def streaming(behavior: Any) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            with calls.serving(method, context):
                stream = behavior(request, context)
                try:
                    async for answer in stream:
                        yield answer
                finally:
                    await stream.aclose()

        return call

    wrap = streaming if handler.response_streaming else unary
    kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    return handler._replace(**{kind: wrap(getattr(handler, kind)) for kind in kinds if getattr(handler, kind)})
