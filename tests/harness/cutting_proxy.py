"""A proxy before a daemon's Unix socket that can cut an answer after the daemon has given it, refuse, or hang.

What a cut call has done is done, and who asked does not know it: the worst that a backend can do to its client.
"""

from __future__ import annotations

import asyncio
import re
import socket as sockets
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import h11

T = TypeVar("T")
_READ_BYTES = 1 << 16
_CALL_SECONDS = 20.0


@dataclass(slots=True)
class Cut:
    """One answer that will not arrive; the first request that matches takes it."""

    method: str
    path: re.Pattern[str]
    then_refuse: bool
    done: threading.Event = field(default_factory=threading.Event)
    status: int = 0
    """What the daemon had answered."""

    def wait(self, seconds: float = 60.0) -> int:
        """Wait until it has happened; the status that the daemon had answered with. Raises AssertionError."""
        assert self.done.wait(seconds), f"no answer to {self.method} {self.path.pattern} within {seconds:g} s"
        return self.status


class CuttingProxy:
    """Listens at `socket` and hands on to `backend`; `with` starts and ends it. It has a thread of its own."""

    def __init__(self, *, socket: Path, backend: Path) -> None:
        self.socket = socket
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cutting-proxy", daemon=True)
        self._listener: sockets.socket | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._cuts: list[Cut] = []
        self._open = asyncio.Event()
        """Whether bytes pass."""

    def __enter__(self) -> Self:
        self._thread.start()
        self.forward()
        return self

    def __exit__(self, *exc: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def cut(self, method: str, path: str, *, then_refuse: bool = False) -> Cut:
        """Cut the connection instead of delivering the next answer to this method on a path that has `path` in it.

        `then_refuse`: from that moment on refuse all others too, so that nobody can look at what has become of it.
        """
        cut = Cut(method, re.compile(path), then_refuse)
        self._run(self._expect(cut))
        return cut

    def forward(self) -> None:
        """Hand on, from now on."""
        self._run(self._forward())

    def refuse(self) -> None:
        """Cut all connections and take no more."""
        self._run(self._refuse())

    def hang(self) -> None:
        """Take connections, and let no byte pass until it is told to forward."""
        self._run(self._hang())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)

    # In the loop

    async def _expect(self, cut: Cut) -> None:
        self._cuts.append(cut)

    async def _forward(self) -> None:
        self._open.set()
        if self._listener is None:
            self.socket.unlink(missing_ok=True)
            listening = sockets.socket(sockets.AF_UNIX)
            listening.setblocking(False)
            listening.bind(str(self.socket))
            listening.listen()
            self._loop.add_reader(listening, self._take, listening)
            self._listener = listening

    def _take(self, listening: sockets.socket) -> None:
        """Take a connection that waits; asyncio's own server loses those that come while it is closed."""
        try:
            taken, _ = listening.accept()
        except BlockingIOError:
            return
        taken.setblocking(False)
        task = self._loop.create_task(self._serve(taken))
        self._connections.add(task)
        task.add_done_callback(partial(self._ended, taken))

    def _ended(self, taken: sockets.socket, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        taken.close()

    async def _hang(self) -> None:
        await self._forward()
        self._open.clear()

    async def _refuse(self) -> None:
        self._cut_all()
        if self._connections:
            await asyncio.wait(self._connections)

    def _cut_all(self) -> None:
        """Listen no more, and end all connections."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._connections:
            task.cancel()

    async def _serve(self, taken: sockets.socket) -> None:
        client = _End(*await asyncio.open_unix_connection(sock=taken))
        try:
            await self._open.wait()
            daemon = _End(*await asyncio.open_unix_connection(str(self._backend)))
            try:
                await self._pass(client, daemon)
            finally:
                daemon.close()
        except OSError:  # no daemon: the client sees the end of it
            pass
        finally:
            client.close()

    async def _pass(self, client: _End, daemon: _End) -> None:
        """Both directions, until both have ended or an answer is to be cut."""
        waiting: list[Cut] = []
        """The cut that the request under way has taken."""
        upward = asyncio.create_task(self._requests(client, daemon, waiting))
        downward = asyncio.create_task(self._answers(client, daemon, waiting))
        try:
            await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in (upward, downward):
                task.cancel()
            await asyncio.wait({upward, downward})
        for task in (upward, downward):
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, OSError):
                raise error

    async def _requests(self, client: _End, daemon: _End, waiting: list[Cut]) -> None:
        parser: h11.Connection | None = h11.Connection(h11.SERVER)
        while data := await client.reader.read(_READ_BYTES):
            await self._open.wait()
            if parser is not None:
                parser = self._look(parser, data, waiting)
            daemon.writer.write(data)
            await daemon.writer.drain()
        with suppress(OSError):
            daemon.writer.write_eof()

    def _look(self, parser: h11.Connection, data: bytes, waiting: list[Cut]) -> h11.Connection | None:
        """Take a cut if these bytes begin its request; None once the connection has left HTTP."""
        try:
            parser.receive_data(data)
            while True:
                event = parser.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    break
                if isinstance(event, h11.Request):
                    waiting.extend(self._taken(event.method.decode(), event.target.decode()))
                    if any(name == b"upgrade" for name, _ in event.headers):
                        return None
            if parser.their_state is h11.DONE:
                return h11.Connection(h11.SERVER)  # who asks sends nothing before the answer is there
        except h11.RemoteProtocolError:
            return None
        return parser

    def _taken(self, method: str, target: str) -> list[Cut]:
        for cut in self._cuts:
            if cut.method == method and cut.path.search(target):
                self._cuts.remove(cut)
                return [cut]
        return []

    async def _answers(self, client: _End, daemon: _End, waiting: list[Cut]) -> None:
        while data := await daemon.reader.read(_READ_BYTES):
            await self._open.wait()
            if waiting:
                cut = waiting[0]
                cut.status = int(data.split(b" ", 2)[1])
                if cut.then_refuse:
                    self._cut_all()
                cut.done.set()
                raise ConnectionAbortedError
            client.writer.write(data)
            await client.writer.drain()
        with suppress(OSError):
            client.writer.write_eof()


class _End:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        """At once: what has not been sent is lost."""
        self.writer.transport.abort()
