"""podman's HTTP, against services that answer what a script says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.engines.podman.http import Refusal, Reply, UnixHttp
from services.engines.streams import closed_after
from services.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
RAW = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"


class Script:
    """A service that answers each connection with `pieces`, then closes it, or holds it open."""

    def __init__(self, pieces: Iterable[bytes], *, hold: bool = False) -> None:
        self._pieces = list(pieces)
        self._hold = hold
        self.requests: list[bytes] = []
        self.rest = b""
        """What came after the request, once the client has ended its side."""
        self.served = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError):  # the client has left
            pass
        finally:
            writer.close()
            self.served.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in self._pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if self._hold:
            self.rest = await reader.read()
            writer.write(b"you said " + self.rest)
            await writer.drain()


@asynccontextmanager
async def service(
    *pieces: bytes, hold: bool = False, connected: Callable[[Path], UnixHttp] = UnixHttp
) -> AsyncIterator[tuple[UnixHttp, Script]]:
    """A client of a scripted service."""
    script = Script(pieces, hold=hold)
    with tempfile.TemporaryDirectory(prefix="bmh") as directory:
        path = Path(directory) / "s"
        async with await asyncio.start_unix_server(script, path):
            yield connected(path), script
            if script.requests:
                await script.served.wait()


async def call(*pieces: bytes, method: str = "GET") -> Reply:
    """What a call makes of this answer."""
    async with service(*pieces) as (http, _):
        return await http.call(method, "/x", timeout=5)


@pytest.mark.parametrize(
    ("answer", "status", "content"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (CHUNKED, 200, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, b""),
        (b"HTTP/1.0 500 Oops\r\n\r\nuntil the end", 500, b"until the end"),
        (b"HTTP/1.1 200\r\ncontent-LENGTH:0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED, 200, b"hello"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", 404, b"no"),
    ],
)
async def test_answers_are_read_in_every_shape(answer: bytes, status: int, content: bytes) -> None:
    """Bodies with a length, in chunks, without one, and until the end are read whole; 1xx answers are passed over."""
    reply = await call(answer)
    assert (reply.status, reply.body) == (status, content)


def pieces(data: bytes, size: int) -> list[bytes]:
    """`data` in pieces of so many bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_answers_are_read_however_they_are_cut(size: int) -> None:
    """The same answer comes out when the service sends it in packets of a few bytes."""
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED
    reply = await call(*pieces(answer, size))
    assert (reply.status, reply.body) == (200, b"hello")


async def test_the_answer_to_head_has_no_body() -> None:
    """The answer to HEAD tells a length and brings no body; the call does not wait for one."""
    async with service(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLibpod-API-Version: 4.3.1\r\n\r\n", hold=True) as (
        http,
        _,
    ):
        reply = await http.call("HEAD", "/_ping", timeout=5)
    assert (reply.body, reply.headers["libpod-api-version"]) == (b"", "4.3.1")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\0" * 1000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (80 << 10),
        SWITCHED,
    ],
)
async def test_broken_answers_are_errors(answer: bytes) -> None:
    """An answer that is cut off, endless or no HTTP is an error in few words, and never a short body."""
    with pytest.raises(Unavailable) as caught:
        await call(answer)
    assert caught.value.reason == "BACKEND_UNREACHABLE"
    assert len(caught.value.message) < 400


async def test_a_body_beyond_the_bound_is_refused() -> None:
    """A body of more than 64 MiB is refused before it is held."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    with pytest.raises(Internal, match="more than"):
        await call(head, *([piece] * 65))


async def test_the_deadline_is_for_the_whole_call() -> None:
    """A service that sends a little and stops is left when the time is over."""
    async with service(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", hold=True) as (http, _):
        with pytest.raises(DeadlineExceeded, match="did not answer GET /x within") as caught:
            await http.call("GET", "/x", timeout=0.05)
        assert str(http.path) not in f"{caught.value} {caught.value.metadata}"


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    """A socket that is not there is BACKEND_UNREACHABLE; clients are not told where on this machine it would be."""
    with pytest.raises(Unavailable) as caught:
        await UnixHttp(tmp_path / "none").call("GET", "/x", timeout=5)
    assert str(tmp_path) not in f"{caught.value} {caught.value.metadata}"


async def test_a_stream_brings_what_comes_and_closes_its_connection() -> None:
    """A stream gives each piece as it comes, and closing it closes the connection."""
    async with service(CHUNKED.removesuffix(b"0\r\n\r\n"), hold=True) as (http, script):
        async with closed_after(http.stream("/logs", query={"follow": "true"})) as chunks:
            assert [await anext(chunks), await anext(chunks)] == [b"hel", b"lo"]
        await script.served.wait()
    assert script.requests[0].startswith(b"GET /logs?follow=true HTTP/1.1\r\n")


async def test_a_stream_that_is_refused_says_why() -> None:
    """A stream whose answer is no success raises the service's words."""
    async with service(b'HTTP/1.1 404 No\r\nContent-Length: 21\r\n\r\n{"message":"no such"}') as (http, _):
        with pytest.raises(Refusal, match="no such") as caught:
            await anext(http.stream("/logs", query={}))
    assert caught.value.status == 404


async def test_streams_are_bounded() -> None:
    """A stream beyond the bound is refused, and one that ended makes room."""
    async with service(CHUNKED, connected=lambda path: UnixHttp(path, max_streams=1)) as (http, _):
        async with closed_after(http.stream("/a", query={})) as first:
            await anext(first)
            with pytest.raises(ResourceExhausted):
                await anext(http.stream("/b", query={}))
        assert [chunk async for chunk in http.stream("/c", query={})] == [b"hel", b"lo"]


@pytest.mark.parametrize("head", [SWITCHED, RAW])
@pytest.mark.parametrize("cut", [1, 20, 1000])
async def test_a_connection_can_be_taken_over(head: bytes, cut: int) -> None:
    """After 101, or 200 with a raw stream, bytes go both ways; ending ours leaves the service's open."""
    answer = head + b"first"
    async with (
        service(answer[:cut], answer[cut:], hold=True) as (http, script),
        http.upgrade("/exec/1/start", timeout=5, body=b"{}") as duplex,
    ):
        got = b""
        while got != b"first":
            got += await duplex.read()
        await duplex.write(b"hello ")
        await duplex.write(b"there")
        duplex.end()
        while piece := await duplex.read():
            got += piece
    assert got == b"firstyou said {}hello there"
    assert b"upgrade: tcp" in script.requests[0].lower()


async def test_taking_over_is_refused_and_bounded_in_time() -> None:
    """A refused upgrade says why, a service that says nothing is left, and a lost one is unreachable."""
    async with service(b"HTTP/1.1 409 Conflict\r\nContent-Length: 11\r\n\r\nnot running") as (http, _):
        with pytest.raises(Refusal, match="not running"):
            async with http.upgrade("/x", timeout=5):
                pass
    async with service(hold=True) as (http, _):
        with pytest.raises(DeadlineExceeded):
            async with http.upgrade("/x", timeout=0.05):
                pass
    async with service() as (http, _):
        with pytest.raises(Unavailable):
            async with http.upgrade("/x", timeout=5):
                pass


async def test_the_time_for_an_upgrade_is_not_the_time_of_the_stream() -> None:
    """A connection that was taken over outlives the deadline of its answer, and a timeout in its block stays one."""
    async with service(SWITCHED, hold=True) as (http, _), http.upgrade("/x", timeout=0.2) as duplex:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await duplex.read()
        duplex.end()
        assert await duplex.read() == b"you said "


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"cause":"no such pod","message":"no pod with name x","response":404}', "no pod with name x"),
        (b'{"cause":"no such pod"}', "no such pod"),
        (b"plain words\n", "plain words"),
        (b"", "HTTP status 500"),
        (b"[1]", "[1]"),
        (b'{"message":"' + b"x" * 5000 + b'"}', "x" * 2000),
    ],
)
def test_the_backends_words_are_found(content: bytes, text: str) -> None:
    """The error text of an answer is podman's message, or whatever it said, and not too much of it."""
    assert Reply(status=500, headers={}, body=content).error_text == text
