"""What every served RPC goes through: the caller's token, decoding, the deadline, and errors as rich statuses."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from services.errors import BeemeshError, Internal, InvalidArgument, Unauthenticated
from services.rpc import deadline
from services.rpc.errors import DETAILS_KEY, from_rpc_error, grpc_code, to_status
from services.telemetry import Log

_OPEN_TO_ALL = ("/grpc.health.v1.Health/",)
"""Probes carry no token: health says only whether a service serves."""

log = Log(__name__)


class ServingInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler once; where a token is set, every TCP caller needs it (a Unix socket has its mode)."""

    def __init__(self, *, token: str | None = None) -> None:
        self._token = token
        self._wrapped: dict[int, tuple[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpc for each RPC; generated handlers are long-lived, so each is wrapped once."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        known = self._wrapped.get(id(handler))
        if known is None or known[0] is not handler:
            known = (handler, self._wrap(handler, str(handler_call_details.method)))
            if len(self._wrapped) < 512:
                self._wrapped[id(handler)] = known
        return known[1]  # type: ignore[no-any-return]  # the tuple holds what _wrap returned

    def _wrap(self, handler: Any, method: str) -> Any:
        behavior = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        serving = self._streaming if handler.response_streaming else self._unary

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
                if not inspect.isasyncgen(stream):
                    raise TypeError(f"{method}: a streaming handler is an async generator")
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
            raise InvalidArgument(
                f"the request of {method} cannot be decoded: {request.why}", reason="REQUEST_UNDECODABLE"
            )
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


class _Undecodable:
    """Stands for a request that protobuf refused, so that the refusal becomes our error and not grpc's."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


def _decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError as error:
            return _Undecodable(str(error).strip() or "not a valid message (is a text field not UTF-8?)")

    return decoded


async def _abort(context: Any, error: Exception, method: str) -> NoReturn:
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
