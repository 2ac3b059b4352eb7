"""Ends single containers as Kubernetes does: the preStop hook, the stop signal, KILL, all within the grace period."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from services.engines.pods.hooks import Hooks
from services.engines.unix_http import Refusal
from services.errors import BeemeshError
from services.telemetry import Log

_AFTER_HOOK_SECONDS = 2
"""What a container has after a preStop hook that took all the time, as in Kubernetes."""

log = Log(__name__)


class Stopper:
    """One ending of containers: the hook of each is run once. Calls raise Refusal and BeemeshError."""

    def __init__(
        self,
        *,
        hooks: Hooks,
        kept: Callable[[str], Awaitable[Mapping[str, Any]]],
        stop: Callable[[str, int], Awaitable[None]],
    ) -> None:
        """`kept` reads what `hooks.kept` gives of a container; `stop` gives one so many seconds after its signal."""
        self._hooks = hooks
        self._kept = kept
        self._stop = stop
        self._hooked: set[str] = set()
        """Containers whose preStop hook has run."""

    async def run(self, container: str, *, seconds: float) -> None:
        """Run its preStop hook, then stop it, all within so many seconds."""
        end = asyncio.get_running_loop().time() + seconds
        least = _AFTER_HOOK_SECONDS if await self._pre_stop(container, seconds) else 1
        left = end - asyncio.get_running_loop().time()
        await self._stop(container, max(least, math.ceil(left)))

    async def tried(self, container: str, *, seconds: float) -> None:
        """The same for what will be killed if it runs on: what fails is no error."""
        try:
            await self.run(container, seconds=seconds)
        except (Refusal, BeemeshError) as error:  # if the backend is gone, the next listing says so
            log.debug("stop_failed", container=container, why=error)

    async def _pre_stop(self, container: str, seconds: float) -> bool:
        """Run its hook, if it has one and it has not run yet; whether it did."""
        if container in self._hooked:
            return False
        self._hooked.add(container)
        manifest = await self._kept(container)
        if not (manifest.get("lifecycle") or {}).get("preStop"):
            return False
        finding = await self._hooks.run(container, manifest, "preStop", timeout=max(1.0, seconds))
        if not finding.ok:  # as in Kubernetes the container is stopped all the same
            log.warning("pre_stop_failed", container=container, why=finding.message)
        return True
