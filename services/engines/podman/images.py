"""Having in podman's storage what a reference names.

Local images are asked for through the `podman` SDK, imported when it is first needed and in threads of its own; pulls
go through `api`, as docs/adr/0005-podman-http-client.md explains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from services.engines.podman import classify
from services.engines.podman.api import API_VERSION, Podman
from services.engines.pods.credentials import Login
from services.engines.pods.progress import Progress
from services.engines.streams import closed_after
from services.engines.unix_http import shorten
from services.errors import BeemeshError, DeadlineExceeded, Internal, Unavailable

if TYPE_CHECKING:
    from podman import PodmanClient

T = TypeVar("T")

_SDK_THREADS = 4
_PULLS = 4
"""At a time; more would only share the same line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImage:
    """An image in local storage."""

    image_id: str
    digests: tuple[str, ...]
    """`name@sha256:…`, as the registries it came from know it."""


class Images:
    """podman's images; `async with` closes the SDK's threads."""

    def __init__(self, *, podman: Podman) -> None:
        self._podman = podman
        self._pulls = asyncio.Semaphore(_PULLS)
        self._threads: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def provide(
        self,
        reference: str,
        *,
        policy: str,
        logins: Sequence[Login] = (),
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> LocalImage:
        """Have the image in local storage; `policy` is a word of `pods.images.pull_policy`, `reference` a full one.

        With `missing` and `never` a registry is not asked for what is here. The logins are tried in turn; without any,
        podman's own configuration counts. `on_progress` hears, in words, how far a pull has come.

        Raises FailedPrecondition (IMAGE_NOT_FOUND, IMAGE_DENIED), ResourceExhausted, Unavailable, DeadlineExceeded.
        """
        here = await self.find(reference) if policy != "always" else None
        if policy == "never" and here is None:
            raise classify.image_absent(reference)
        if here is not None and policy in ("never", "missing"):
            return here
        try:
            await self._pull(reference, logins, on_progress)
        except BeemeshError as error:
            if here is not None and policy == "newer" and error.metadata.get("registry") == "unreachable":
                return here
            raise
        pulled = await self.find(reference)
        if pulled is None:
            raise classify.pull_error(
                "podman pulled it, and does not have it: was it removed meanwhile?", image=reference
            )
        return pulled

    async def find(self, reference: str) -> LocalImage | None:
        """The image, if it is in local storage. Raises Unavailable, DeadlineExceeded."""
        attributes = await self._ask(lambda sdk: _attributes(sdk, reference))
        if attributes is None:
            return None
        return LocalImage(image_id=attributes["Id"], digests=tuple(attributes.get("RepoDigests") or ()))

    async def _pull(self, reference: str, logins: Sequence[Login], on_progress: Callable[[str], None]) -> None:
        progress = Progress(reference)
        on_progress(progress.text)
        async with self._pulls:
            attempts: Sequence[Login | None] = logins or (None,)
            for number, login in enumerate(attempts, 1):
                text = await self._pull_once(reference, login, progress, on_progress)
                if not text:
                    return
                error = classify.pull_error(login.hidden_in(text) if login else text, image=reference)
                if number == len(attempts) or error.reason != "IMAGE_DENIED":
                    raise error

    async def _pull_once(
        self, reference: str, login: Login | None, progress: Progress, on_progress: Callable[[str], None]
    ) -> str:
        """Pull; podman's error text, or empty when it is there."""
        seconds = self._podman.deadlines.pull
        steps = self._podman.pull(reference, auth=login.header() if login else "")
        try:
            async with asyncio.timeout(seconds), closed_after(steps):
                async for step in steps:
                    if step.get("error"):
                        return str(step["error"])
                    if progress.take(step):
                        on_progress(progress.text)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"podman did not pull {reference} within {seconds:g} s; raise pull_timeout if the registry is slow",
                reason="BACKEND_TIMEOUT",
                metadata={"image": reference},
            ) from error
        return ""

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
