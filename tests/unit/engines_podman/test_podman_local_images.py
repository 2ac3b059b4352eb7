"""The SDK asked about local images, by services that answer what a script says."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.engines.podman.api import Deadlines, Podman
from services.engines.podman.http import UnixHttp
from services.engines.podman.images import PodmanImages
from services.engines.pods.pulling import LocalImage
from services.errors import DeadlineExceeded, Internal

HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def images(
    status: bytes, body: bytes, *, silent: bool = False, seconds: float = 10.0
) -> AsyncIterator[tuple[PodmanImages, list[bytes]]]:
    """The images of a service that gives this answer, or none; what it was asked."""
    asked: list[bytes] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        if silent:
            await reader.read()  # until the caller leaves
        else:
            writer.write(HEAD % (status, len(body)) + body)
        writer.close()
        ended.set()

    with tempfile.TemporaryDirectory(prefix="bmi") as directory:
        path = Path(directory) / "s"
        async with await asyncio.start_unix_server(serve, path):
            async with PodmanImages(podman=Podman(UnixHttp(path), deadlines=Deadlines(read=seconds))) as made:
                yield made, asked
            await ended.wait()


async def test_what_is_here_is_told() -> None:
    """An image that is here has an id and digests; it is asked for by its whole reference, on the oldest API."""
    async with images(b"200 OK", b'{"Id": "abc", "RepoDigests": ["r.example/a@sha256:1"]}') as (made, asked):
        assert await made.find("r.example:5000/a:1") == LocalImage(image_id="abc", digests=("r.example/a@sha256:1",))
    assert asked == [b"GET /v4.0.0/libpod/images/r.example%3A5000%2Fa%3A1/json HTTP/1.1"]


async def test_what_is_not_here_is_none() -> None:
    """An image that podman does not know is None, and no error."""
    async with images(b"404 Not Found", b'{"cause": "image not known", "message": "a: image not known"}') as (made, _):
        assert await made.find("r.example/a:1") is None


async def test_a_refusal_is_told_in_podmans_words() -> None:
    """Another refusal is BACKEND_ERROR with podman's own text."""
    async with images(b"500 Oops", b'{"cause": "x", "message": "layer is broken"}') as (made, _):
        with pytest.raises(Internal, match="layer is broken"):
            await made.find("r.example/a:1")


# The SDK leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
async def test_a_frozen_service_holds_nobody() -> None:
    """A service that says nothing is BACKEND_TIMEOUT in time, and the thread that asked ends too."""
    async with images(b"", b"", silent=True, seconds=0.2) as (made, _):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            await made.find("r.example/a:1")
        assert time.monotonic() - began < 5
    reason = caught.value.reason
    del caught
    gc.collect()  # here, where its warning is expected
    assert reason == "BACKEND_TIMEOUT"


def test_the_sdk_is_not_loaded_before_it_is_needed() -> None:
    """Importing the engine loads neither the SDK nor what it brings."""
    loaded = "sorted({'podman', 'requests', 'urllib3'} & set(sys.modules))"
    code = f"import sys, services.engines.podman.__main__; print({loaded})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"
