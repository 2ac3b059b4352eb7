"""Finds out, step by step, whether podman can truly run a pod: its ping and its info answer long after it cannot."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from services.engines.engine import Health, HealthState
from services.engines.podman import version
from services.engines.podman.ability import Ability, ability_of, rootless
from services.engines.podman.api import Deadlines, Podman
from services.engines.podman.http import Refusal, UnixHttp
from services.engines.podman.service import PodmanService
from services.engines.podman.teardown import Teardown
from services.engines.unix_http import shorten
from services.errors import BeemeshError, DeadlineExceeded
from services.identity import LABEL_NODE_ID
from services.telemetry import Log

_SLOW_ANSWERS_MAX = 3
"""So many probes in a row without an answer to /info, though with one to a ping, and podman is sick."""

LABEL_CANARY = "beemesh.io/canary"
PACKAGES = "podman catatonit netavark aardvark-dns iptables runc"
INSTALL = f"on Debian or Ubuntu: apt-get install --no-install-recommends {PACKAGES}"

_HINTS = (
    ("pause binary", "install catatonit"),
    ("netavark: No such file or directory", "netavark found no iptables: install iptables"),
    ("netavark", "install netavark and iptables"),
    ("iptables", "install iptables"),
    ("cgroups in hybrid mode", 'crun cannot run on hybrid cgroups: install runc and set runtime = "runc"'),
    ("RLIMIT_", "podman may not raise limits here: set default_ulimits in containers.conf (deploy/containers.conf)"),
    ("/dev/net/tun", "slirp4netns needs /dev/net/tun open to this user: chmod 666 /dev/net/tun, as udev has it"),
    ("rootless netns", "XDG_RUNTIME_DIR must be a directory of this user's own below /run, such as /run/user/UID"),
    ("newuidmap", "install uidmap, and give this user ranges in /etc/subuid and /etc/subgid"),
    ("slirp4netns", "install slirp4netns"),
    ("unable to find network", "the setting podman_network names a network that podman does not have"),
)


CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers")
_LOWEST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_USUAL_LOWEST_PORT = 1024

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTimes:
    """Seconds."""

    ping: float = 1.2
    """For each ping: a frozen service is told after one."""
    info: float = 2.0
    """Longer, and a ping tells whether it is frozen or slow."""
    canary: float = 30.0
    """For each of its calls."""
    canary_wait: float = 3.0
    """For one, where none has lived yet; the next probe goes on waiting for it."""
    canary_fresh: float = 300.0
    """How long a canary that lived vouches for podman."""
    canary_retry: float = 10.0
    """After how long one that died is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canary:
    """The last canary."""

    backend: tuple[object, ...]
    """The service and version that it was sent to."""
    time: float
    error: str
    """podman's words; empty when it lived."""


class _Sick(Exception):
    """A step failed: the health that follows from it."""

    def __init__(self, reason: str, message: str, state: HealthState = HealthState.UNHEALTHY) -> None:
        super().__init__(message)
        self.health = Health(state=state, reason=reason, message=message)


class Probe:
    """Probes the service; remembers the canary. `version` is the backend's, once it is known.

    `async with` bounds the canary that nobody waits for.
    """

    def __init__(
        self,
        *,
        service: PodmanService,
        node_id: str,
        network: str,
        clock: Callable[[], float],
        times: ProbeTimes | None = None,
    ) -> None:
        self._service = service
        self._node_id = node_id
        self._network = network
        self._clock = clock
        self._times = times or ProbeTimes()
        self._canary: _Canary | None = None
        self._flying: asyncio.Task[_Canary] | None = None
        """The canary that is to take the last one's place."""
        self._tasks = asyncio.TaskGroup()
        self._last_info: dict[str, Any] | None = None
        self._slow_answers = 0
        """How many probes in a row got no answer to /info in time, though one to a ping."""
        self._ability: Ability | None = None
        self.version = ""
        self.api_version = ""

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._flying is not None:
            self._flying.cancel()
        await self._tasks.__aexit__(None, None, None)

    @property
    def ability(self) -> Ability:
        """What podman can do, as it says itself; before it was asked, no more than its user's rights promise."""
        if self._ability is None:
            return Ability() if self._service.is_roots else rootless(CGROUP_V2.exists(), (), lowest_port=lowest_port())
        return self._ability

    async def run(self) -> Health:
        """One probe; never raises for a sick backend."""
        try:
            http = UnixHttp(self._service.socket)  # its own connections: calls that hang cannot delay it
            await self._reach(http)
            await self._ping(http, "/_ping", "SOCKET_UNREACHABLE")
            await self._ping(http, "/libpod/_ping", "IMPOSTOR_BACKEND")
            info = await self._info(http)
            await self._check_canary(http)
        except _Sick as sick:
            if sick.health.reason not in ("CANARY_FAILED", "CANARY_SLOW"):
                self._canary = None  # what comes back may not be what went
            return sick.health
        cannot = f"rootless podman cannot {self.ability.cannot}" if self.ability.rootless else ""
        return Health(state=HealthState.HEALTHY, message=cannot, attributes=self._attributes(info))

    async def _reach(self, http: UnixHttp) -> None:
        """The socket is there and takes connections."""
        socket = self._service.socket
        await self._service.wait_for_socket()
        if socket.exists():
            return
        if self._service.binary is None:
            raise _Sick(
                "BACKEND_NOT_FOUND",
                f"podman is not installed and {socket} is not there; {INSTALL}",
                HealthState.UNDETECTED,
            )
        words = f"; its service said: {self._service.last_words[-500:]}" if self._service.last_words else ""
        raise _Sick("SOCKET_UNREACHABLE", f"podman's socket {socket} is not there{words}")

    async def _ping(self, http: UnixHttp, target: str, reason_if_refused: str) -> None:
        try:
            reply = await http.call("GET", target, timeout=self._times.ping)
        except DeadlineExceeded as error:
            message = f"{error.message}; the service is frozen or overloaded: see its process, or restart it"
            raise _Sick("PING_TIMEOUT", message) from error
        except BeemeshError as error:
            raise _Sick("SOCKET_UNREACHABLE", error.message) from error
        if not reply.ok:
            what = "answers, but not as podman does" if target.startswith("/libpod") else "refuses a ping"
            raise _Sick(reason_if_refused, f"what listens at {http.path} {what}: {reply.error_text[:200]}")

    async def _info(self, http: UnixHttp) -> dict[str, Any]:
        try:
            info = await Podman(http).info(timeout=self._times.info)
            self.version = str(info["version"]["Version"])
            self.api_version = str(info["version"]["APIVersion"])
        except DeadlineExceeded as error:
            await self._ping(http, "/_ping", "SOCKET_UNREACHABLE")
            self._slow_answers += 1
            if self._last_info is not None and self._slow_answers < _SLOW_ANSWERS_MAX:
                return self._last_info  # busy, not sick: it has answered before, and answers a ping
            raise _Sick("INFO_FAILED", f"{error.message}, though it answers a ping") from error
        except (Refusal, BeemeshError) as error:
            raise _Sick("INFO_FAILED", str(error)) from error
        except (KeyError, TypeError) as error:
            raise _Sick("IMPOSTOR_BACKEND", f"what listens at {http.path} has no podman version") from error
        if version.parse(self.version) < version.OLDEST:
            oldest = ".".join(map(str, version.OLDEST))
            raise _Sick("BACKEND_TOO_OLD", f"podman {self.version} is too old; {oldest} or newer is needed")
        self._last_info, self._slow_answers = info, 0
        self._ability = ability_of(info, lowest_port=lowest_port())
        return info

    async def _check_canary(self, http: UnixHttp) -> None:
        """One that lived vouches until its successor has ended; where none has, it is waited for, though not for long.

        A busy podman takes its time: that it can be asked, and that it can run a pod, are two findings.
        """
        backend = (self._service.socket, self._service.starts, self.version)
        last = self._canary
        if last is not None and last.backend[-1] != self.version:
            last = None
        if last is None or last.backend != backend or self._clock() - last.time >= self._lasts(last):
            if self._flying is None or self._flying.done():
                self._flying = self._tasks.create_task(self._send(http, backend), context=contextvars.Context())
            if last is None or last.error:
                last = await self._landed(self._flying)
        if last.error:
            raise _Sick("CANARY_FAILED", f"podman answers but cannot run a pod: {last.error}")

    def _lasts(self, canary: _Canary) -> float:
        return self._times.canary_retry if canary.error else self._times.canary_fresh

    async def _landed(self, flying: asyncio.Task[_Canary]) -> _Canary:
        await asyncio.wait([flying], timeout=self._times.canary_wait)
        if not flying.done():
            raise _Sick("CANARY_SLOW", "podman answers, and has not yet run the pod that it was asked to")
        return flying.result()

    async def _send(self, http: UnixHttp, backend: tuple[object, ...]) -> _Canary:
        began = self._clock()
        try:
            error = await self._fly(Podman(http, deadlines=self._deadlines()))
        except Exception as defect:  # it must not end the engine; a later probe tries again
            log.error("canary_failed", exc_info=defect)
            error = f"{defect!r}; the engine's log says more"
        self._canary = _Canary(backend=backend, time=began, error=error)
        return self._canary

    def _deadlines(self) -> Deadlines:
        return Deadlines(read=self._times.canary, change=self._times.canary)

    async def _fly(self, podman: Podman) -> str:
        """Run a pod without containers: it needs no image, but runtime, limits, cgroups and network. podman's error."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"bm-canary-{secrets.token_hex(4)}",
                "labels": {LABEL_NODE_ID: self._node_id, LABEL_CANARY: self._node_id},
            },
            "spec": {},
        }
        try:
            async with self._clean(podman):
                errors = await podman.play([pod], annotations={}, network=self._network)
        except Refusal as refusal:
            errors = [refusal.text]
        except BeemeshError as error:
            errors = [error.message]
        return _explain(errors)

    @asynccontextmanager
    async def _clean(self, podman: Podman) -> AsyncIterator[None]:
        """No canary of this node is left before or after, also none that an earlier engine left."""
        await self._remove(podman)
        try:
            yield
        finally:
            await self._remove(podman)

    async def _remove(self, podman: Podman) -> None:
        await Teardown(podman=podman, labels={LABEL_CANARY: self._node_id}).run(grace_seconds=0.0, force=True)

    def _attributes(self, info: dict[str, Any]) -> dict[str, str]:
        host = info.get("host", {})
        runtime = host.get("ociRuntime", {})
        facts = {
            "backend_version": self.version,
            "runtime": runtime.get("name", ""),
            "cgroup": host.get("cgroupVersion", ""),
            "rootless": str(bool(host.get("security", {}).get("rootless"))).lower(),
            "cannot": self.ability.cannot,
            "network_backend": host.get("networkBackend", ""),
            "socket": str(self._service.socket),
            "service_pid": str(self._service.pid or ""),
        }
        return {name: value for name, value in facts.items() if value}


def lowest_port() -> int:
    """The machine's lowest port for users that are not root."""
    try:
        return int(_LOWEST_PORT.read_text())
    except (OSError, ValueError):
        return _USUAL_LOWEST_PORT


def _explain(errors: Sequence[str]) -> str:
    if not errors:
        return ""
    text = "; ".join(shorten(error) for error in errors)
    hint = next((advice for sign, advice in _HINTS if sign in text), "")
    return f"{text} ({hint})" if hint else text
