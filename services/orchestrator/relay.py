"""The public port's relay: calls of the node's other services are passed on, byte for byte, in both directions.

Registry and provider have one target each; engine services go to the engine named in call metadata `beemesh-engine`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc

from services.errors import FieldViolation, InvalidArgument, Unavailable
from services.rpc.deadline import budget
from services.rpc.errors import from_rpc_error

ENGINE_KEY = "beemesh-engine"

_HOP_BY_HOP = ("grpc-", ":", "user-agent", "authorization", "te", "content-type")
_STREAM_SECONDS = 3600.0

Route = Callable[[Mapping[str, str]], grpc.aio.Channel]
"""From call metadata to the channel that serves it; raises domain errors."""


class Relay(grpc.GenericRpcHandler):
    """Serves every method of the services in `routes` as a stream of raw messages each way."""

    def __init__(self, routes: Mapping[str, Route], methods: Iterable[str]) -> None:
        """`routes`: full service name → route. `methods`: the full method paths that exist."""
        self._handlers: Mapping[str, Any] = {
            method: grpc.stream_stream_rpc_method_handler(_Pipe(method, routes[method.split("/")[1]]).serve)
            for method in methods
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Called by grpc for methods that no other handler has."""
        return self._handlers.get(str(handler_call_details.method))


class _Pipe:
    def __init__(self, method: str, route: Route) -> None:
        self._method = method
        self._route = route

    async def serve(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Pass messages on until the served side ends; its status reaches the caller as it is."""
        metadata = [(key, value) for key, value in context.invocation_metadata() if not key.startswith(_HOP_BY_HOP)]
        channel = self._route({key: value for key, value in metadata if isinstance(value, str)})
        call: Any = channel.stream_stream(self._method)(metadata=metadata, timeout=budget(_STREAM_SECONDS))
        feeder = asyncio.create_task(_feed(requests, call))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error)
            if told.reason == "RPC_UNAVAILABLE":  # nobody listens: that is for us to say, without where
                raise Unavailable(
                    f"the service behind {self._method} cannot be reached",
                    reason="SERVICE_UNREACHABLE",
                    retry_after=1.0,
                ) from error
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            call.cancel()
            feeder.cancel()
            await asyncio.wait([feeder])


async def _feed(requests: AsyncIterator[bytes], call: Any) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the other side ended: `serve` says so
        async for request in requests:
            await call.write(request)
        await call.done_writing()


def engine_route(channel: Callable[[str], grpc.aio.Channel]) -> Route:
    """Route by the engine that the caller names."""

    def route(metadata: Mapping[str, str]) -> grpc.aio.Channel:
        name = metadata.get(ENGINE_KEY, "")
        if not name:
            raise InvalidArgument(
                f"engine services are reached through this port with call metadata '{ENGINE_KEY}: <engine id>'",
                reason="ENGINE_NOT_NAMED",
                violations=[FieldViolation(field_path=f"metadata[{ENGINE_KEY}]", message="name the engine")],
            )
        return channel(name)

    return route
