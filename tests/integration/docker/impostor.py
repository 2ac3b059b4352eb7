"""A socket that answers as podman's Docker-compatible one does."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def podman_like() -> AsyncIterator[Path]:
    """Every path is answered with 200, `/libpod/_ping` too."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
        await writer.drain()
        writer.close()

    with tempfile.TemporaryDirectory(prefix="bmi") as directory:
        socket = Path(directory) / "s"
        server = await asyncio.start_unix_server(answer, str(socket))
        try:
            yield socket
        finally:
            server.close()
            await server.wait_closed()
