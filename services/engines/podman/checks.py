"""Runs the health checks of containers: podman has no daemon, and where there is no systemd nobody else does.

podman itself runs each (one call), holds it to retries and start period, and records it, so that Compose, which waits
for `service_healthy`, and everybody else reads the result in an inspection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from services.engines.docker_api.inspected import Inspected, seconds
from services.engines.podman.containers import Containers
from services.engines.podman.dialer import belongs
from services.engines.podman.exec import Killing
from services.engines.podman.http import Refusal, UnixHttp
from services.engines.pods.errands import Errands
from services.errors import BeemeshError
from services.telemetry import Log

SYSTEMD = Path("/run/systemd/system")
"""Is there where systemd runs, and podman's own timers with it."""
_NANO = 1e9
_INTERVAL, _TIMEOUT = 30.0, 30.0
"""Docker's, where the healthcheck does not say."""
_AT_A_TIME = 8
_PATIENCE = 5.0
"""Seconds beyond a check's own timeout in which podman answers."""
_LEAST = 0.1
_RETRY = 1.0
_NONE = ("NONE", "")

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One container's health check, in one of its runs."""

    container: str
    run: str
    """When it was started, as podman writes it."""
    interval: float
    timeout: float
    last: float
    """When it was last checked, or started; seconds since 1970."""
    command: str
    """The last word of it."""


def check_of(container: Inspected) -> Check | None:
    """What is to be run for a container; None where nothing is. Pure."""
    state, asked = container.get("State") or {}, (container.get("Config") or {}).get("Healthcheck") or {}
    test = asked.get("Test") or ()
    started = seconds(state.get("StartedAt"))
    if state.get("Status") != "running" or started is None or not test or test[0] in _NONE:
        return None
    checked = [seconds(entry.get("Start")) or 0.0 for entry in (state.get("Health") or {}).get("Log") or ()]
    return Check(
        container=str(container["Id"]),
        run=str(state["StartedAt"]),
        interval=max(_LEAST, (asked.get("Interval") or 0) / _NANO or _INTERVAL),
        timeout=(asked.get("Timeout") or 0) / _NANO or _TIMEOUT,
        last=max(started, *checked) if checked else started,
        command=str(test[-1]),
    )


class Checks:
    """The checks of all containers that run; `async with` bounds them."""

    def __init__(
        self,
        *,
        socket: Callable[[], Path],
        clock: Callable[[], float],
        wake: Callable[[], None],
        systemd: Path = SYSTEMD,
    ) -> None:
        """`wake` is told when somebody's health has changed."""
        self._socket = socket
        self._clock = clock
        self._wake = wake
        self._has_timers = systemd.exists()
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """By container: the run that is checked."""
        self._turn = asyncio.Semaphore(_AT_A_TIME)
        self._errands = Errands(pause=_RETRY, wake=lambda: None)

    async def __aenter__(self) -> Self:
        self._http = UnixHttp(self._socket(), concurrency=2 * _AT_A_TIME)
        self._containers = Containers(self._http)
        await self._errands.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for container in list(self._running):
            self._end(container)
        await self._errands.__aexit__(None, None, None)

    def see(self, containers: Iterable[Inspected], *, whole: bool) -> None:
        """Containers as podman has them now; `whole`: all there are."""
        due = {str(each["Id"]): check_of(each) for each in containers}
        gone = self._running.keys() - due.keys() if whole else ()
        for container in (*gone, *(name for name, check in due.items() if check is None)):
            self._end(container)
        for check in due.values():
            if check is None:
                continue
            known = self._running.get(check.container)
            if known is None or known[0] != check.run or known[1].done():
                self._end(check.container)
                task = self._errands.guard(check.container, partial(self._follow, check))
                self._running[check.container] = (check.run, task)

    def _end(self, container: str) -> None:
        if (known := self._running.pop(container, None)) is not None:
            known[1].cancel()

    async def _follow(self, check: Check) -> None:
        """For as long as this run lasts; whoever sees its end cancels."""
        last, status = check.last, ""
        while True:
            slack = check.interval if self._has_timers else 0.0
            await asyncio.sleep(max(_LEAST, last + check.interval + slack - self._clock()))
            if self._has_timers and (seen := await self._seen(check)) > last:
                last = seen  # podman's timer was first
                continue
            async with self._turn:
                now = await self._run(check)
            last = self._clock()
            if now and now != status:
                status = now
                self._wake()

    async def _seen(self, check: Check) -> float:
        found = check_of(await self._inspect(check.container))
        return found.last if found is not None else 0.0

    async def _run(self, check: Check) -> str:
        """What podman makes of one run: its status; empty where it could not be run."""
        target = f"/v4.0.0/libpod/containers/{check.container}/healthcheck"
        call = asyncio.ensure_future(self._http.call("GET", target, timeout=check.timeout + _PATIENCE))
        try:
            done, _ = await asyncio.wait([call], timeout=check.timeout)
            if not done:
                await self._kill(check)
            reply = await call
        except BeemeshError as error:
            log.debug("health_check_not_run", container=check.container[:12], why=error)
            await asyncio.sleep(_RETRY)
            return ""
        finally:
            call.cancel()
        return str(reply.json().get("Status", "")) if reply.ok else ""

    async def _kill(self, check: Check) -> None:
        """End a check that takes too long: podman would wait for it for ever."""
        try:
            for session in (await self._inspect(check.container)).get("ExecIDs") or ():
                if _words(await self._containers.inspect_exec(session))[-1:] == [check.command]:
                    processes = await self._containers.processes(check.container)
                    leader = next((pid for pid, _, _ in processes if belongs(pid, session)), 0)
                    await Killing(self._containers, check.container, session).run(leader)
        except (Refusal, BeemeshError, OSError) as error:
            log.warning("health_check_left_behind", container=check.container[:12], why=error)

    async def _inspect(self, container: str) -> dict[str, Any]:
        reply = await self._http.call("GET", f"/v1.41/containers/{container}/json", timeout=_PATIENCE)
        if not reply.ok:
            raise Refusal(reply.status, reply.error_text)
        found: dict[str, Any] = reply.json()
        return found


def _words(session: Mapping[str, Any]) -> Sequence[str]:
    process = session.get("ProcessConfig") or {}
    return [str(process.get("entrypoint", "")), *map(str, process.get("arguments") or ())]
