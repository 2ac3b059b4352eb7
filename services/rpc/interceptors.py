"""What every served RPC goes through: the caller's token, decoding, the deadline, and errors as rich statuses."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from services.errors import BeemeshError, Internal, InvalidArgument, Unauthenticated, Unimplemented
from services.rpc import deadline
from services.rpc.errors import DETAILS_KEY, from_rpc_error, grpc_code, to_status
from services.telemetry import Log

_OPEN_TO_ALL = ("/grpc.health.v1.Health/",)
"""Probes carry no token: health says only whether a service serves."""

_WRAPPED_MAX = 512
"""Methods; a generic handler answers to any name, so the names are bounded here."""

log = Log(__name__)


class ServingInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler once; where a token is set, every TCP caller needs it (a Unix socket has its mode)."""

    def __init__(self, *, token: str | None = None) -> None:
        self._token = token
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpc for each RPC; a handler that stands for its method for good is wrapped once."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None:
            return self._wrap(_NOT_SERVED, method)  # type: ignore[no-any-return]  # as below
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = (handler, self._wrap(handler, method))
            if len(self._wrapped) < _WRAPPED_MAX:
                self._wrapped[method] = known
        return known[1]  # type: ignore[no-any-return]  # the tuple holds what _wrap returned

    def _wrap(self, handler: Any, method: str) -> Any:
        behavior = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        serving = self._streaming if handler.response_streaming else self._unary
        if handler.request_streaming and handler.request_deserializer is not None:
            behavior = _on_checked(behavior, method)
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(serving(behavior, method), _decoder(handler.request_deserializer), handler.response_serializer)

    def _unary(self, behavior: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            try:
                self._admit(request, context, method)
                return await behavior(request, context)
            except Exception as error:
                await _abort(context, error, method)

        return call

    def _streaming(self, behavior: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                self._admit(request, context, method)
                stream = behavior(request, context)
                if inspect.isawaitable(stream):  # grpc's own health Watch writes to the context instead of yielding
                    await stream
                    return
                try:
                    async for response in stream:
                        yield response
                finally:
                    await stream.aclose()
            except Exception as error:
                await _abort(context, error, method)

        return call

    def _admit(self, request: Any, context: Any, method: str) -> None:
        if self._token is not None and not method.startswith(_OPEN_TO_ALL):
            self._authenticate(context)
        if isinstance(request, _Undecodable):
            raise request.error(method)
        deadline.enter(context.time_remaining())

    def _authenticate(self, context: Any) -> None:
        if context.peer().startswith("unix:"):
            return
        given = dict(context.invocation_metadata()).get("authorization", "")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise Unauthenticated(
                "this port needs metadata 'authorization: Bearer <token>'; the node's user can read its token file",
                reason="TOKEN_REQUIRED" if not given else "TOKEN_WRONG",
            )


async def _refuse(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    raise Unimplemented("this method is not served here", reason="UNSUPPORTED_VERB")
    yield  # an async generator, as every streaming handler


_NOT_SERVED: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(_refuse)
"""grpc's own refusal would carry no ErrorInfo."""


class _Undecodable:
    """Stands for a request that protobuf refused, so that the refusal becomes our error and not grpc's."""

    __slots__ = ("_why",)

    def __init__(self, why: str) -> None:
        self._why = why

    def error(self, method: str) -> InvalidArgument:
        """What the caller is told."""
        return InvalidArgument(f"the request of {method} cannot be decoded: {self._why}", reason="REQUEST_UNDECODABLE")


def _decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError as error:
            return _Undecodable(str(error).strip() or "not a valid message (is a text field not UTF-8?)")

    return decoded


def _on_checked(behavior: Any, method: str) -> Any:
    """The handler, with a stream of requests that raises at the first one that cannot be decoded."""

    async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, _Undecodable):
                raise request.error(method)
            yield request

    return lambda requests, context: behavior(checked(requests), context)


def _unwrapped(error: Exception) -> Exception:
    """The first error of a task group that says something to the caller: an abort, a peer's status, one of ours."""
    if not isinstance(error, ExceptionGroup):
        return error
    leaves = [_unwrapped(leaf) for leaf in error.exceptions]
    speaking = [leaf for leaf in leaves if isinstance(leaf, grpc.aio.AbortError | grpc.aio.AioRpcError | BeemeshError)]
    return speaking[0] if len(speaking) == len(leaves) else error


async def _abort(context: Any, error: Exception, method: str) -> NoReturn:
    error = _unwrapped(error)
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.AioRpcError):
        error = from_rpc_error(error)
    if not isinstance(error, BeemeshError):
        log.error("unexpected_error", exc_info=error, method=method)
        error = Internal(
            "an unexpected error; the service's log has it", reason="INTERNAL", metadata={"method": method}
        )
    status = to_status(error)
    await context.abort(grpc_code(error), status.message, ((DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("abort raises")
