"""The public port's relay: calls of the node's other services are passed on, byte for byte, in both directions.

Registry and provider have one target each; engine services go to the engine named in call metadata `beemesh-engine`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from services.errors import FieldViolation, InvalidArgument, Unavailable
from services.rpc.deadline import budget
from services.rpc.errors import from_rpc_error
from services.rpc.sending import heard_out

ENGINE_KEY = "beemesh-engine"

_HOP_BY_HOP = ("grpc-", ":", "user-agent", "authorization", "te", "content-type")
_STREAM_SECONDS = 3600.0
_TALK_SECONDS = 86_400.0
"""A shell cannot be opened anew."""

Route = Callable[[Mapping[str, str]], grpc.aio.Channel]
"""From call metadata to the channel that serves it; raises domain errors."""


class Relay(grpc.GenericRpcHandler):
    """Serves every method of some services by passing raw messages on, each way."""

    def __init__(self, services: Iterable[ServiceDescriptor], routes: Mapping[str, Route]) -> None:
        """`routes`: full service name → route."""
        self._handlers: Mapping[str, Any] = {
            path: _handler(path, method, routes[service.full_name])
            for service in services
            for method in service.methods
            for path in (f"/{service.full_name}/{method.name}",)
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Called by grpc for methods that no other handler has."""
        return self._handlers.get(str(handler_call_details.method))


def _handler(path: str, method: MethodDescriptor, route: Route) -> Any:
    """A single request goes out with the call itself: a stream would take it one turn later, and need a feeder."""
    pipe = _Pipe(path, route)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(pipe.converse)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(pipe.stream)
    return grpc.unary_unary_rpc_method_handler(pipe.ask)


class _Pipe:
    def __init__(self, method: str, route: Route) -> None:
        self._method = method
        self._route = route

    async def ask(self, request: bytes, context: Any) -> bytes:
        """One request, one answer; the served side's status reaches the caller as it is."""
        channel, metadata = self._target(context)
        async with self._passing_on(context):
            answer: bytes = await channel.unary_unary(self._method)(
                request, metadata=metadata, timeout=budget(_STREAM_SECONDS)
            )
        return answer

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """One request, many answers."""
        channel, metadata = self._target(context)
        async with self._passing_on(context):
            call: Any = channel.unary_stream(self._method)(request, metadata=metadata, timeout=budget(_STREAM_SECONDS))
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    async def converse(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Messages both ways, until the served side ends."""
        channel, metadata = self._target(context)
        async with self._passing_on(context):
            call = heard_out(channel.stream_stream(self._method)(metadata=metadata, timeout=budget(_TALK_SECONDS)))
            feeder = asyncio.create_task(_feed(requests, call))
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()
                feeder.cancel()
                await asyncio.wait([feeder])

    def _target(self, context: Any) -> tuple[Any, list[tuple[str, str | bytes]]]:
        """The channel (any: its types know messages only) and the metadata to pass on."""
        metadata = [(key, value) for key, value in context.invocation_metadata() if not key.startswith(_HOP_BY_HOP)]
        return self._route({key: value for key, value in metadata if isinstance(value, str)}), metadata

    @contextlib.asynccontextmanager
    async def _passing_on(self, context: Any) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error)
            if told.reason == "RPC_UNAVAILABLE":  # nobody listens: that is for us to say, without where
                raise Unavailable(
                    f"the service behind {self._method} cannot be reached",
                    reason="SERVICE_UNREACHABLE",
                    retry_after=1.0,
                ) from error
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))


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
