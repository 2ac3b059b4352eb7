"""Answers of podman's service, as bytes."""

from __future__ import annotations

import asyncio

import pytest

from services.engines.podman.http import Reply, read_body, read_head


def reader(data: bytes) -> asyncio.StreamReader:
    """A connection that has received `data` and was closed by the other side."""
    stream = asyncio.StreamReader(limit=1 << 16)
    stream.feed_data(data)
    stream.feed_eof()
    return stream


async def body(data: bytes) -> tuple[int, bytes]:
    """The status and the whole body of an answer."""
    stream = reader(data)
    status, headers = await read_head(stream)
    return status, b"".join([chunk async for chunk in read_body(stream, status, headers)])


@pytest.mark.parametrize(
    ("answer", "status", "content"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", 200, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.0 500 Oops\r\n\r\nuntil the end", 500, b"until the end"),
        (b"HTTP/1.1 200\r\ncontent-LENGTH:0\r\n\r\n", 200, b""),
    ],
)
async def test_answers_are_read_in_every_shape(answer: bytes, status: int, content: bytes) -> None:
    """Bodies with a length, in chunks, without one, and until the end are read whole."""
    assert await body(answer) == (status, content)


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
    ],
)
async def test_broken_answers_are_errors(answer: bytes) -> None:
    """An answer that is cut off, or is no HTTP, is an error and never a short body."""
    with pytest.raises((ValueError, EOFError)):
        await body(answer)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"cause":"no such pod","message":"no pod with name x","response":404}', "no pod with name x"),
        (b'{"cause":"no such pod"}', "no such pod"),
        (b"plain words\n", "plain words"),
        (b"", "HTTP status 500"),
        (b"[1]", "[1]"),
    ],
)
def test_the_backends_words_are_found(content: bytes, text: str) -> None:
    """The error text of an answer is podman's message, or whatever it said."""
    assert Reply(status=500, headers={}, body=content).error_text == text
