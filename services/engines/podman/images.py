"""Having in podman's storage what a reference names.

Local images are asked for through the `podman` SDK, imported when it is first needed and in threads of its own; pulls
go through `api`, as docs/adr/0005-podman-http-client.md explains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar

from services.engines.podman.api import API_VERSION, Podman
from services.engines.pods.pulling import Images, LocalImage
from services.engines.unix_http import shorten
from services.errors import DeadlineExceeded, Internal, Unavailable

if TYPE_CHECKING:
    from podman import PodmanClient

T = TypeVar("T")

_SDK_THREADS = 4


class PodmanImages(Images):
    """podman's images; `async with` closes the SDK's threads."""

    def __init__(self, *, podman: Podman) -> None:
        super().__init__(backend="podman", pull_timeout=podman.deadlines.pull)
        self._podman = podman
        self._threads: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(self, reference: str) -> LocalImage | None:
        """The image, if it is in local storage. Raises Unavailable, DeadlineExceeded."""
        attributes = await self._ask(lambda sdk: _attributes(sdk, reference))
        if attributes is None:
            return None
        return LocalImage(image_id=attributes["Id"], digests=tuple(attributes.get("RepoDigests") or ()))

    def steps(self, reference: str, *, auth: str) -> AsyncIterator[Mapping[str, Any]]:
        """See `Podman.pull`."""
        return self._podman.pull(reference, auth=auth)

    async def _ask(self, question: Callable[[PodmanClient], T]) -> T:
        """Ask the SDK in a thread. Its timeout is for each read, so the wait has one of its own."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_SDK_THREADS, thread_name_prefix="podman-sdk")
        seconds = self._podman.deadlines.read
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._in_thread, question, seconds)
        try:
            async with asyncio.timeout(2 * seconds):  # the import, and a queue, count too
                return await asked
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"podman did not answer about an image within {seconds:g} s", reason="BACKEND_TIMEOUT"
            ) from error

    def _in_thread(self, question: Callable[[PodmanClient], T], seconds: float) -> T:
        """A client for each question: a session is not for several threads, and opening one takes no millisecond."""
        from podman import PodmanClient
        from podman.errors import APIError, PodmanError
        from requests import RequestException, Timeout

        try:
            with PodmanClient(base_url=f"unix://{self._podman.socket}", version=API_VERSION, timeout=seconds) as sdk:
                return question(sdk)
        except (RequestException, PodmanError, OSError) as error:
            if isinstance(error, Timeout) or isinstance(error.__cause__, Timeout):  # the SDK wraps it
                raise TimeoutError from error
            if isinstance(error, APIError) and error.response is not None:
                said = shorten(str(error.explanation or error))
                raise Internal(f"podman refused to tell of an image: {said}", reason="BACKEND_ERROR") from error
            why = error.__cause__ or type(error).__name__
            raise Unavailable(
                f"podman's service cannot be reached: {why}",
                reason="BACKEND_UNREACHABLE",
                retry_after=1.0,
            ) from error


def _attributes(sdk: PodmanClient, reference: str) -> dict[str, Any] | None:
    from podman.errors import ImageNotFound

    try:
        attributes: dict[str, Any] = sdk.images.get(reference).attrs
    except ImageNotFound:
        return None
    return attributes
