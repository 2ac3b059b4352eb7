"""Has images in a backend's storage: looked for, and pulled where they are missing or may be newer."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.pods.classify import image_absent, pull_error
from services.engines.pods.credentials import Login
from services.engines.pods.progress import Progress
from services.engines.streams import closed_after
from services.errors import BeemeshError, DeadlineExceeded

_PULLS = 4
"""At a time; more would only share the same line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImage:
    """An image in local storage."""

    image_id: str
    digests: tuple[str, ...]
    """`name@sha256:…`, as the registries it came from know it."""


class Images(ABC):
    """The images of one backend."""

    def __init__(self, *, backend: str, pull_timeout: float) -> None:
        """`backend` is what it is called in errors; one pull may take `pull_timeout` seconds."""
        self._backend = backend
        self._pull_timeout = pull_timeout
        self._pulls = asyncio.Semaphore(_PULLS)

    @abstractmethod
    async def find(self, reference: str) -> LocalImage | None:
        """The image, if it is in local storage. Raises Unavailable, DeadlineExceeded."""

    @abstractmethod
    def steps(self, reference: str, *, auth: str) -> AsyncIterator[Mapping[str, Any]]:
        """Pull it; what is told of each layer, as docker tells it, and an `error` where it fails.

        `auth` is an X-Registry-Auth header; empty: the backend's own configuration counts.
        """

    async def provide(
        self,
        reference: str,
        *,
        policy: str,
        logins: Sequence[Login] = (),
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> LocalImage:
        """Have the image in local storage; `policy` is a word of `images.pull_policy`, `reference` a full one.

        With `missing` and `never` a registry is not asked for what is here. The logins are tried in turn; without any,
        the backend's own configuration counts. `on_progress` hears, in words, how far a pull has come.

        Raises FailedPrecondition (IMAGE_NOT_FOUND, IMAGE_DENIED), ResourceExhausted, Unavailable, DeadlineExceeded.
        """
        here = await self.find(reference) if policy != "always" else None
        if policy == "never" and here is None:
            raise image_absent(reference)
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
            text = f"{self._backend} pulled it, and does not have it: was it removed meanwhile?"
            raise pull_error(text, image=reference, backend=self._backend)
        return pulled

    async def _pull(self, reference: str, logins: Sequence[Login], on_progress: Callable[[str], None]) -> None:
        progress = Progress(reference)
        on_progress(progress.text)
        async with self._pulls:
            attempts: Sequence[Login | None] = logins or (None,)
            for number, login in enumerate(attempts, 1):
                text = await self._pull_once(reference, login, progress, on_progress)
                if not text:
                    return
                told = login.hidden_in(text) if login else text
                error = pull_error(told, image=reference, backend=self._backend)
                if number == len(attempts) or error.reason != "IMAGE_DENIED":
                    raise error

    async def _pull_once(
        self, reference: str, login: Login | None, progress: Progress, on_progress: Callable[[str], None]
    ) -> str:
        """Pull; the backend's error text, or empty when it is there."""
        steps = self.steps(reference, auth=login.header() if login else "")
        try:
            async with asyncio.timeout(self._pull_timeout), closed_after(steps):
                async for step in steps:
                    if step.get("error"):
                        return str(step["error"])
                    if progress.take(step):
                        on_progress(progress.text)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self._backend} did not pull {reference} within {self._pull_timeout:g} s; raise pull_timeout if the "
                "registry is slow",
                reason="BACKEND_TIMEOUT",
                metadata={"image": reference},
            ) from error
        return ""
