"""Asks a daemon through docker's SDK, in a few threads of the engine's own: every question that has one answer.

What stays open, or may take minutes and must be left when its caller leaves, goes through `services.engines.unix_http`
instead; docs/adr/0018-docker-compose.md says why there are both.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from services.engines.unix_http import Refusal
from services.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from docker import APIClient

T = TypeVar("T")

API_VERSION = "1.41"
"""Docker 20.10's, the oldest with all that is asked for; newer ones still speak it."""
_THREADS = 8
_CLOSE_SECONDS = 1.0
_POLL_SECONDS = 0.01
_MAX_CAUSE = 200


class Sdk:
    """One daemon. Calls raise Unavailable(BACKEND_UNREACHABLE), DeadlineExceeded(BACKEND_TIMEOUT), or Refusal."""

    def __init__(self, path: Path, *, backend: str, read: float = 10.0) -> None:
        """`read` bounds the wait for an answer, in seconds; `backend` is what it is called in errors."""
        self._backend = backend
        self._socket = path
        self._read = read
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker-sdk")
        self._mine = threading.local()
        self._clients: list[APIClient] = []
        self._busy: set[int] = set()
        """The threads that ask just now."""
        self._is_closed = False

    async def open(self) -> None:
        """Import the SDK, which takes a moment, before anybody's deadline runs."""
        await asyncio.get_running_loop().run_in_executor(self._threads, import_module, "docker")

    async def close(self) -> None:
        """Ask nothing more, and let the threads end; what one of them still waits for after a moment is dropped.

        Who closes may end the daemon next: of a connection that fails then, the SDK leaves its socket open.
        """
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._busy:  # noqa: ASYNC110 - a thread tells nobody
                    await asyncio.sleep(_POLL_SECONDS)
        for client in self._clients:
            client.close()

    async def ask(self, question: Callable[[APIClient], T], *, timeout: float | None = None) -> T:
        """The answer; `timeout` in seconds where the question may take longer, or must not take as long."""
        seconds = timeout or self._read
        if self._is_closed:
            raise Unavailable("the engine has stopped; ask again when it is back", reason="ENGINE_STOPPING")
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._in_thread, question, seconds)
        try:
            async with asyncio.timeout(seconds + 1.0):  # the SDK's timeout is for each read; a queue counts too
                return await asked
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self._backend} did not answer within {seconds:g} s", reason="BACKEND_TIMEOUT"
            ) from error

    def _in_thread(self, question: Callable[[APIClient], T], seconds: float) -> T:
        from docker.errors import APIError, DockerException
        from requests import RequestException, Timeout

        self._busy.add(threading.get_ident())
        try:
            listens(self._socket, seconds)
            client = self._client()
            client.timeout = seconds
            try:
                return question(client)
            finally:
                if self._is_closed:  # whoever closed them all has not seen what was opened since
                    client.close()
        except APIError as error:
            raise Refusal(error.response.status_code, str(error.explanation or error)) from error
        except (RequestException, DockerException, OSError) as error:
            if isinstance(error, Timeout):
                raise TimeoutError from error
            raise Unavailable(
                f"{self._backend}'s service cannot be reached: {str(_cause(error))[:_MAX_CAUSE]}",
                reason="BACKEND_UNREACHABLE",
                retry_after=1.0,
            ) from error
        finally:
            if self._is_closed and (client := getattr(self._mine, "client", None)) is not None:
                client.close()  # once more: the connection of this question was not there to be closed
            self._busy.discard(threading.get_ident())

    def _client(self) -> APIClient:
        """This thread's: a session is not for several."""
        from docker import APIClient
        from docker.transport import UnixHTTPAdapter

        known: APIClient | None = getattr(self._mine, "client", None)
        if known is None:
            known = self._mine.client = APIClient(base_url=f"unix://{self._socket}", version=API_VERSION)
            # Of itself the SDK keeps a connection for each URL that it has asked, 25 of them, whatever it is told.
            known.mount("http+docker://", UnixHTTPAdapter(f"http+unix://{self._socket}", pool_connections=1))
            self._clients.append(known)
        return known


def listens(path: Path, seconds: float = 1.0) -> None:
    """Raise OSError unless somebody listens there: of a connection that fails the SDK leaves its socket open."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(seconds)
        probe.connect(str(path))


def _cause(error: BaseException) -> object:
    """What lies below the SDK's wrapping."""
    while inner := next((arg for arg in error.args if isinstance(arg, BaseException)), None):
        error = inner
    return getattr(error, "strerror", None) or error
