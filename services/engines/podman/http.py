"""Speaks just enough HTTP/1.1 over a Unix socket for podman's REST API: one connection a call, deadlines, streams.

docs/adr/0005-podman-http-client.md says why this is not an SDK.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from services.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable

_MAX_HEAD_BYTES = 64 << 10
_MAX_BODY_BYTES = 64 << 20
_READ_BYTES = 64 << 10


class Refusal(Exception):
    """An answer whose status is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{text} (HTTP {status})")
        self.status = status
        self.text = text
        """The backend's own words."""


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
            raise Internal(f"podman answered no JSON: {self.body[:200]!r}", reason="BACKEND_ERROR") from error

    @property
    def error_text(self) -> str:
        """What the backend says went wrong, in its own words."""
        try:
            said = json.loads(self.body)
        except ValueError:
            return self.body.decode(errors="replace").strip()[:2000] or f"HTTP status {self.status}"
        text = said.get("message") or said.get("cause") if isinstance(said, dict) else None
        return str(text or said)


class UnixHttp:
    """A client of the HTTP service behind one Unix socket.

    `concurrency` bounds calls in flight, `max_streams` open streams; a call waits within its deadline for its turn, a
    stream beyond the bound is refused.
    """

    def __init__(self, path: Path, *, concurrency: int = 16, max_streams: int = 256) -> None:
        self.path = path
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
        try:
            async with (
                asyncio.timeout(timeout),
                self._turn,
                self._exchange(method, target, query, body, content_type) as (
                    reader,
                    status,
                    headers,
                ),
            ):
                return Reply(status=status, headers=headers, body=await _whole(read_body(reader, status, headers)))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"podman did not answer {method} {target} within {timeout:g} s",
                reason="BACKEND_TIMEOUT",
                metadata={"socket": str(self.path)},
            ) from error

    async def stream(self, target: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The body of a GET, chunk by chunk, for as long as the service sends; close the iterator to end it.

        podman sends no header before the first line of output, so there is no deadline. Raises like `call`, and
        Refusal when the answer is not a success.
        """
        if self._streams_left <= 0:
            raise ResourceExhausted(
                "too many log and event streams are open on this engine; close some and retry",
                reason="TOO_MANY_STREAMS",
            )
        self._streams_left -= 1
        try:
            async with self._exchange("GET", target, query, b"", "") as (reader, status, headers):
                chunks = read_body(reader, status, headers)
                if not 200 <= status < 300:
                    reply = Reply(status=status, headers=headers, body=await _whole(chunks))
                    raise Refusal(status, reply.error_text)
                async for chunk in chunks:
                    yield chunk
        finally:
            self._streams_left += 1

    @asynccontextmanager
    async def _exchange(
        self, method: str, target: str, query: Mapping[str, str] | None, body: bytes, content_type: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, int, Mapping[str, str]]]:
        """Connect, ask, read the head of the answer; the connection is closed whatever happens."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.path), limit=_MAX_HEAD_BYTES)
        except OSError as error:
            raise _unreachable(self.path, error) from error
        try:
            writer.write(_request(method, target, query, body, content_type))
            await writer.drain()
            status, headers = await read_head(reader)
            yield reader, status, headers
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise _unreachable(self.path, error) from error
        finally:
            writer.transport.abort()


def _request(method: str, target: str, query: Mapping[str, str] | None, body: bytes, content_type: str) -> bytes:
    path = f"{target}?{urlencode(query)}" if query else target
    head = [f"{method} {path} HTTP/1.1", "Host: podman", "Connection: close", f"Content-Length: {len(body)}"]
    if content_type:
        head.append(f"Content-Type: {content_type}")
    return "\r\n".join([*head, "", ""]).encode("ascii") + body


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and headers of an answer, names in lower case. Raises ValueError, EOFError, LimitOverrunError."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP answer: {lines[0][:80]!r}")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def read_body(reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """The body, piece by piece as it comes. Raises ValueError and EOFError when it is broken off."""
    if status in (204, 304):
        return
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while chunk := await reader.read(_READ_BYTES):
            yield chunk


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise Internal(f"podman answered more than {_MAX_BODY_BYTES} bytes", reason="BACKEND_ERROR")
    return bytes(body)


def _unreachable(path: Path, error: BaseException) -> Unavailable:
    return Unavailable(
        f"podman's service at {path} cannot be reached: {error}",
        reason="BACKEND_UNREACHABLE",
        metadata={"socket": str(path)},
        retry_after=1.0,
    )
