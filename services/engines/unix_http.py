"""Asks a backend's HTTP API over its Unix socket: h11 knows HTTP/1.1, this knows sockets, deadlines and bounds.

docs/adr/0005-podman-http-client.md says why this stands beside the SDKs.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import h11

from services.engines.streams import closed_after
from services.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable

_MAX_HEAD_BYTES = 64 << 10
_MAX_BODY_BYTES = 64 << 20
_MAX_ERROR_TEXT = 2000
_MAX_CAUSE = 200
_READ_BYTES = 64 << 10
_SWITCHING_PROTOCOLS = 101
_ID = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
_MAX_TOLD = 1000


class Refusal(Exception):
    """An answer whose status is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{text} (HTTP {status})")
        self.status = status
        self.text = text
        """The backend's own words."""


def shorten(text: str) -> str:
    """A backend's words with ids cut to the 12 digits that people read, and an end."""
    return _ID.sub(r"\1", text.strip())[:_MAX_TOLD]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status says success."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body, parsed; raises Internal when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Internal(f"the backend answered no JSON: {self.body[:200]!r}", reason="BACKEND_ERROR") from error

    @property
    def error_text(self) -> str:
        """What the backend says went wrong, in its own words; at most 2,000 characters."""
        try:
            said = json.loads(self.body)
        except ValueError:
            said = self.body.decode(errors="replace").strip()
        if isinstance(said, dict):
            said = said.get("message") or said.get("cause") or said
        return str(said)[:_MAX_ERROR_TEXT] or f"HTTP status {self.status}"


@dataclass(frozen=True, slots=True)
class Service:
    """Who is asked."""

    name: str
    """For errors: `podman`, `docker`."""
    path: Path


class Duplex:
    """A connection that has left HTTP: bytes in both directions, each of which ends by itself.

    Raises Unavailable(BACKEND_UNREACHABLE) when the connection breaks.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes, service: Service
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._first = first
        self._service = service

    async def read(self) -> bytes:
        """The next bytes, as they come; empty when the service has ended its side."""
        if self._first:
            first, self._first = self._first, b""
            return first
        with _reaching(self._service):
            return await self._reader.read(_READ_BYTES)

    async def write(self, data: bytes) -> None:
        """Send; waits while the service is slow to read."""
        with _reaching(self._service):
            self._writer.write(data)
            await self._writer.drain()

    def end(self) -> None:
        """Say that nothing more will be written; reading goes on."""
        with _reaching(self._service):
            self._writer.write_eof()


class _Answer:
    """One connection that has been asked; its head has been read."""

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self.status = 0
        self.headers: dict[str, str] = {}

    async def ask(self, request: h11.Request, body: bytes) -> None:
        """Send the request and read the head of its answer. Raises Unavailable."""
        with _reaching(self._service):
            for part in (request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()):
                self._writer.write(self._http.send(part) or b"")
            await self._writer.drain()
            while not self.status:
                event = await self._event()
                if isinstance(event, h11.Response | h11.InformationalResponse):
                    self._take_head(event)

    def _take_head(self, head: h11.Response | h11.InformationalResponse) -> None:
        if isinstance(head, h11.Response) or head.status_code == _SWITCHING_PROTOCOLS:  # 100 and 103 say nothing yet
            self.status = head.status_code
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece as it comes. Raises Unavailable when it is broken off."""
        while True:
            with _reaching(self._service):
                event = await self._event()
            if isinstance(event, h11.EndOfMessage):
                return
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def whole(self, limit: int) -> Reply:
        """The answer with its whole body. Raises Internal beyond `limit` bytes."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise Internal(f"the backend answered more than {limit} bytes", reason="BACKEND_ERROR")
        return Reply(status=self.status, headers=self.headers, body=bytes(body))

    async def expect_success(self) -> None:
        """Raises Refusal, with the text in the body, for any other status."""
        if not 200 <= self.status < 300:
            reply = await self.whole(_MAX_BODY_BYTES)
            raise Refusal(reply.status, reply.error_text)

    def take_over(self) -> Duplex:
        """The connection itself, with what had come behind the head."""
        return Duplex(self._reader, self._writer, self._http.trailing_data[0], self._service)

    async def _event(self) -> object:
        """The next event; a connection that ends too early is an EOFError."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_READ_BYTES)
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise EOFError("it closed the connection without an answer")
            self._http.receive_data(data)
        return event


class UnixHttp:
    """A client of the HTTP service behind one Unix socket.

    `concurrency` bounds calls in flight, `max_streams` open streams; a call waits within its deadline for its turn, a
    stream beyond the bound is refused.
    """

    def __init__(self, path: Path, *, backend: str, concurrency: int = 16, max_streams: int = 256) -> None:
        """`backend` names it in errors."""
        self.path = path
        self._service = Service(backend, path)
        self._turn = asyncio.Semaphore(concurrency)
        self._streams_left = max_streams

    async def call(
        self,
        method: str,
        target: str,
        *,
        timeout: float,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        content_type: str = "",
    ) -> Reply:
        """One call, answered within `timeout` seconds.

        Raises Unavailable(BACKEND_UNREACHABLE) or DeadlineExceeded(BACKEND_TIMEOUT); every HTTP status is a reply.
        """
        request = _request(method, _with_query(target, query), body, content_type)
        try:
            async with asyncio.timeout(timeout), self._turn, self._exchange(request, body) as answer:
                return await answer.whole(_MAX_BODY_BYTES)
        except TimeoutError as error:
            raise _too_late(f"{method} {target}", timeout, self._service) from error

    async def stream(
        self,
        target: str,
        *,
        query: Mapping[str, str],
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[bytes]:
        """The body of an answer, piece by piece, for as long as the service sends; close the iterator to end it.

        A backend may send no header before the first line of output, so there is no deadline. Raises like `call`, and
        Refusal when the answer is not a success.
        """
        request = _request(method, _with_query(target, query), b"", "", headers)
        with self._one_stream():
            async with self._exchange(request, b"") as answer:
                await answer.expect_success()
                async for chunk in answer.chunks():
                    yield chunk

    async def lines(
        self, target: str, *, query: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """POST, and read what is answered line by line, each an object in JSON, as it comes.

        Raises like `stream`, and Internal for a line that is no JSON.
        """
        rest = b""
        async with closed_after(self.stream(target, query=query, method="POST", headers=headers)) as chunks:
            async for chunk in chunks:
                *whole, rest = (rest + chunk).split(b"\n")
                for line in filter(bytes.strip, whole):
                    yield self._line(line)
        if rest.strip():
            yield self._line(rest)

    def _line(self, line: bytes) -> dict[str, Any]:
        try:
            said = json.loads(line)
        except ValueError as error:
            text = f"{self._service.name} answered no JSON: {line[:200]!r}"
            raise Internal(text, reason="BACKEND_ERROR") from error
        return said if isinstance(said, dict) else {}

    @asynccontextmanager
    async def upgrade(
        self, target: str, *, timeout: float, body: bytes = b"", content_type: str = "application/json"
    ) -> AsyncIterator[Duplex]:
        """POST, and take the connection over once the service has answered 101, or 200 with a raw stream.

        `timeout` bounds the wait for that answer; the stream has no deadline, and ends with the block. Raises like
        `call`, and Refusal for any other answer.
        """
        request = _request("POST", target, body, content_type, {"Upgrade": "tcp", "Connection": "Upgrade"})
        with self._one_stream():
            try:
                deadline = asyncio.timeout(timeout)
                async with deadline, self._exchange(request, body) as answer:
                    if answer.status != _SWITCHING_PROTOCOLS:
                        await answer.expect_success()
                    deadline.reschedule(None)
                    yield answer.take_over()
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise _too_late(f"POST {target}", timeout, self._service) from error

    @contextmanager
    def _one_stream(self) -> Iterator[None]:
        if self._streams_left <= 0:
            raise ResourceExhausted(
                "too many log, event and exec streams are open on this engine; close some and retry",
                reason="TOO_MANY_STREAMS",
            )
        self._streams_left -= 1
        try:
            yield
        finally:
            self._streams_left += 1

    @asynccontextmanager
    async def _exchange(self, request: h11.Request, body: bytes) -> AsyncIterator[_Answer]:
        """Connect, ask, read the head of the answer; the connection is closed whatever happens."""
        with _reaching(self._service):
            reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            answer = _Answer(self._service, reader, writer)
            await answer.ask(request, body)
            yield answer
        finally:
            writer.transport.abort()


def _request(
    method: str, target: str, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> h11.Request:
    named = {"Host": "backend", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
    if content_type:
        named["Content-Type"] = content_type
    return h11.Request(method=method, target=target, headers=list(named.items()))


def _with_query(target: str, query: Mapping[str, str] | None) -> str:
    return f"{target}?{urlencode(query)}" if query else target


@contextmanager
def _reaching(service: Service) -> Iterator[None]:
    """Turns a connection that fails, and an answer that is no HTTP, into Unavailable.

    Errors reach the public port: where on this machine the service is, the engine's health says to who may ask it.
    """
    try:
        yield
    except (OSError, EOFError, h11.RemoteProtocolError) as error:
        raise Unavailable(
            f"{service.name}'s service cannot be reached: {str(error)[:_MAX_CAUSE]}",
            reason="BACKEND_UNREACHABLE",
            retry_after=1.0,
        ) from error


def _too_late(what: str, timeout: float, service: Service) -> DeadlineExceeded:
    return DeadlineExceeded(f"{service.name} did not answer {what} within {timeout:g} s", reason="BACKEND_TIMEOUT")
