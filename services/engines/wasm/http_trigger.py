"""The HTTP trigger of a function: a small, strict HTTP/1.1 server on a loopback port of its own."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11

from services.engines.engine import Invocation, Invoked
from services.engines.wasm.http_events import (
    BadResponse,
    Request,
    Response,
    event_of,
    matches,
    refusal,
    response_of,
    response_of_error,
)
from services.errors import BeemeshError, FailedPrecondition

HOST = "127.0.0.1"

CONNECTIONS_MAX = 256
HEADERS_MAX = 64 << 10
IDLE_SECONDS = 30.0
"""For the next request on a connection, and for each piece of one."""

_READ = 16 << 10
_WITHOUT_BODY = (204, 304)
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_LINGER_SECONDS = 2.0

Invoke = Callable[[Invocation], Awaitable[Invoked]]


class HttpTrigger:
    """Answers `path` and what lies below it by calling the function."""

    def __init__(self, *, path: str, invoke: Invoke, event_max: int) -> None:
        self._path = path
        self._invoke = invoke
        self._event_max = event_max
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self, port: int) -> int:
        """Listen on this port, 0 for a free one; the one it got. Raises FailedPrecondition(PORT_IN_USE)."""
        try:
            self._server = await asyncio.start_server(self._serve, HOST, port, family=socket.AF_INET)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise FailedPrecondition(
                f"the function's HTTP trigger cannot listen on {HOST}:{port}: {error.strerror}",
                reason="PORT_IN_USE",
                metadata={"port": str(port)},
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Cut what is under way."""
        self.stop_listening()
        self._closed = True
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._connections.add(task)
        try:
            await _Connection(reader, writer, self._answer, self._event_max).run()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):  # the client left, or says nothing
            pass
        except asyncio.CancelledError:  # by `close`; asyncio's streams would take it for an error
            if not self._closed:
                raise
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, request: Request) -> Response:
        if not matches(request.path, self._path):
            return refusal(404, "PATH_NOT_FOUND", f"the function answers {self._path}")
        try:
            invoked = await self._invoke(Invocation(event=event_of(request, path=self._path)))
            response = response_of(invoked.result)
        except BeemeshError as error:
            return response_of_error(error)
        except BadResponse as error:
            return refusal(502, "BAD_RESPONSE", f"the function's result is no HTTP response: {error}")
        named = (b"x-beemesh-invocation-id", invoked.invocation_id.encode())
        return Response(status=response.status, headers=[*response.headers, named], body=response.body)


class _Connection:
    """One connection, request after request."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[Request], Coroutine[Any, Any, Response]],
        body_max: int,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._body_max = body_max
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADERS_MAX)

    async def run(self) -> None:
        """Until one side is done."""
        try:
            while True:
                request = await self._request()
                if request is None:
                    return
                await self._respond(request.method, await self._answered(request))
                if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, "BAD_REQUEST", str(error))
        except _TooLarge:
            await self._refuse(413, "EVENT_TOO_LARGE", f"a body has at most {self._body_max} bytes")

    async def _answered(self, request: Request) -> Response:
        """The answer; a client that hangs up meanwhile ends the call (ConnectionResetError)."""
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(self._answer(request))
            watching = group.create_task(self._read())
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if has_left := watching.done() and not watching.result() and not answering.done():
                answering.cancel()
            await asyncio.wait({answering})
            watching.cancel()
        if has_left:
            raise ConnectionResetError("the client left")
        if not watching.cancelled():
            self._http.receive_data(watching.result())  # the next request, sent early
        return answering.result()

    async def _read(self) -> bytes:
        """What comes next; nothing when the client is gone."""
        try:
            return await self._reader.read(_READ)
        except OSError:
            return b""

    async def _request(self) -> Request | None:
        """The next one, whole; None when the client is done."""
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = await self._event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._body_max:
                    raise _TooLarge
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                break
            else:
                return None
        return Request(
            method=head.method.decode(),
            target=head.target.decode("latin-1"),
            headers=list(head.headers),
            body=bytes(body),
            client=str((self._writer.get_extra_info("peername") or ("",))[0]),
        )

    async def _event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            async with asyncio.timeout(IDLE_SECONDS):
                self._http.receive_data(await self._reader.read(_READ))

    async def _respond(self, method: str, response: Response) -> None:
        try:
            head = _head(response)
        except h11.LocalProtocolError as error:
            response = refusal(502, "BAD_RESPONSE", f"the function's result is no HTTP response: {error}")
            head = _head(response)
        await self._send(head)
        if method != "HEAD" and response.body and response.status not in _WITHOUT_BODY:
            await self._send(h11.Data(data=response.body))
        await self._send(h11.EndOfMessage())

    async def _refuse(self, status: int, reason: str, message: str) -> None:
        """Say why, and hang up: what follows on this connection makes no sense."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        response = refusal(status, reason, message)
        await self._send(_head(response, (b"connection", b"close")))
        await self._send(h11.Data(data=response.body))
        await self._send(h11.EndOfMessage())
        with suppress(TimeoutError):  # read what is on its way, or the answer is lost with the connection
            async with asyncio.timeout(_LINGER_SECONDS):
                while await self._reader.read(_READ):
                    pass

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            async with asyncio.timeout(IDLE_SECONDS):
                await self._writer.drain()


class _TooLarge(Exception):
    """A body beyond the limit."""


def _head(response: Response, *more: tuple[bytes, bytes]) -> h11.Response:
    """Status line and headers; raises h11.LocalProtocolError for headers that are none."""
    headers = [*response.headers, *more]
    if response.status not in _WITHOUT_BODY:
        headers.append((b"content-length", str(len(response.body)).encode()))
    return h11.Response(status_code=response.status, headers=headers, reason=_REASONS.get(response.status, ""))
