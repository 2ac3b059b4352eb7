"""Finds out, step by step, whether docker can truly run a container: its ping answers long after it cannot."""

from __future__ import annotations

import asyncio
import io
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.engines.compose.binary import Finder, parse_version
from services.engines.compose.labels import CANARY
from services.engines.docker_api.api import Docker
from services.engines.docker_api.teardown import Teardown
from services.engines.engine import Health, HealthState
from services.engines.unix_http import Refusal, UnixHttp
from services.errors import BeemeshError, DeadlineExceeded
from services.identity import LABEL_NODE_ID

if TYPE_CHECKING:
    from docker import APIClient

OLDEST = (20, 10)
INSTALL = "on Debian or Ubuntu: apt-get install --no-install-recommends docker.io"
CANARY_IMAGE = "beemesh-canary"
"""An image of nothing but an empty directory, made here: a probe must not need a registry."""

_PROGRAM = "/beemesh-canary"
_LIVED = re.compile(r"beemesh-canary.*(no such file or directory|executable file not found)", re.IGNORECASE)
"""How a container of the empty image fails: at its very last step, when all that docker does for it is done."""
_SLOW_ANSWERS_MAX = 3
_MAX_TEXT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTimes:
    """Seconds."""

    ping: float = 1.2
    """For each ping: a frozen daemon is told after one."""
    info: float = 2.0
    """Longer, and a ping tells whether it is frozen or slow."""
    canary: float = 30.0
    """For each of its calls."""
    canary_fresh: float = 300.0
    """How long a canary that lived vouches for docker."""
    canary_retry: float = 10.0
    """After how long one that died is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canary:
    """The last canary."""

    backend: str
    """The daemon's id and version."""
    time: float
    error: str
    """docker's words; empty when it lived."""


class _Sick(Exception):
    """A step failed: the health that follows from it."""

    def __init__(self, reason: str, message: str, state: HealthState = HealthState.UNHEALTHY) -> None:
        super().__init__(message)
        self.health = Health(state=state, reason=reason, message=message)


class Probe:
    """Probes the daemon; remembers the canary. `version` is the daemon's, once it is known."""

    def __init__(
        self,
        *,
        socket: Path,
        docker: Docker,
        finder: Finder,
        node_id: str,
        clock: Callable[[], float],
        times: ProbeTimes | None = None,
    ) -> None:
        self._socket = socket
        self._docker = docker
        self._finder = finder
        self._node_id = node_id
        self._clock = clock
        self._times = times or ProbeTimes()
        self._canary: _Canary | None = None
        self._last_info: dict[str, Any] | None = None
        self._slow_answers = 0
        """How many probes in a row got no answer to /info in time, though one to a ping."""
        self.version = ""
        self.api_version = ""

    @property
    def storage(self) -> Path | None:
        """Docker's root directory, once it is known."""
        root = (self._last_info or {}).get("DockerRootDir")
        return Path(str(root)) if root else None

    async def run(self) -> Health:
        """One probe; never raises for a sick backend."""
        try:
            http = UnixHttp(self._socket, backend="docker")  # its own connections: calls that hang cannot delay it
            await self._reach()
            await self._ping(http)
            await self._refuse_podman(http)
            info = await self._info(http)
            compose = await self._finder.find()
            await self._check_canary(info)
        except _Sick as sick:
            if sick.health.reason != "CANARY_FAILED":
                self._canary = None  # what comes back may not be what went
            return sick.health
        except BeemeshError as error:  # of Compose
            return Health(state=HealthState.UNHEALTHY, reason=error.reason, message=error.message)
        return Health(state=HealthState.HEALTHY, attributes=self._attributes(info, compose.version, str(compose.path)))

    async def _reach(self) -> None:
        """The socket is there; where docker itself is not, say how to get it."""
        if await asyncio.to_thread(self._socket.exists):
            return
        if shutil.which("dockerd") is None:
            message = f"docker is not installed and {self._socket} is not there; {INSTALL}"
            raise _Sick("BACKEND_NOT_FOUND", message, HealthState.UNDETECTED)
        raise _Sick("SOCKET_UNREACHABLE", f"docker's socket {self._socket} is not there: is dockerd running?")

    async def _ping(self, http: UnixHttp) -> None:
        try:
            reply = await http.call("GET", "/_ping", timeout=self._times.ping)
        except DeadlineExceeded as error:
            message = f"{error.message}; the daemon is frozen or overloaded: see its process, or restart it"
            raise _Sick("PING_TIMEOUT", message) from error
        except BeemeshError as error:
            raise _Sick("SOCKET_UNREACHABLE", error.message) from error
        if not reply.ok:
            raise _Sick(
                "SOCKET_UNREACHABLE", f"what listens at {self._socket} refuses a ping: {reply.error_text[:200]}"
            )

    async def _refuse_podman(self, http: UnixHttp) -> None:
        """Podman's socket speaks docker's language, and would run everything a second time."""
        try:
            reply = await http.call("GET", "/libpod/_ping", timeout=self._times.ping)
        except BeemeshError as error:
            raise _Sick("SOCKET_UNREACHABLE", error.message) from error
        if reply.ok:
            message = f"what listens at {self._socket} is podman, not docker; engine podman serves it"
            raise _Sick("IMPOSTOR_BACKEND", message)

    async def _info(self, http: UnixHttp) -> dict[str, Any]:
        try:
            info, version = await self._docker.sdk.ask(_info_and_version, timeout=self._times.info)
            self.version, self.api_version = str(version["Version"]), str(version["ApiVersion"])
        except DeadlineExceeded as error:
            await self._ping(http)
            self._slow_answers += 1
            if self._last_info is not None and self._slow_answers < _SLOW_ANSWERS_MAX:
                return self._last_info  # busy, not sick: it has answered before, and answers a ping
            raise _Sick("INFO_FAILED", f"{error.message}, though it answers a ping") from error
        except (Refusal, BeemeshError) as error:
            raise _Sick("INFO_FAILED", str(error)) from error
        except (KeyError, TypeError) as error:
            raise _Sick("IMPOSTOR_BACKEND", f"what listens at {self._socket} has no docker version") from error
        if parse_version(self.version) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise _Sick("BACKEND_TOO_OLD", f"docker {self.version} is too old; {oldest} or newer is needed")
        self._last_info, self._slow_answers = info, 0
        return info

    async def _check_canary(self, info: Mapping[str, Any]) -> None:
        backend = f"{info.get('ID', '')}/{self.version}"
        last, now = self._canary, self._clock()
        fresh = last is not None and last.backend == backend
        if last is not None and fresh:
            fresh = 0 <= now - last.time < (self._times.canary_retry if last.error else self._times.canary_fresh)
        if last is None or not fresh:
            last = self._canary = _Canary(backend=backend, time=now, error=await self._fly())
        if last.error:
            raise _Sick("CANARY_FAILED", f"docker answers but cannot run a container: {last.error}")

    async def _fly(self) -> str:
        """Run a container of the empty image, which fails for want of a program; any other error that docker has."""
        tag = secrets.token_hex(4)
        teardown = Teardown(self._docker, {CANARY: self._node_id})
        try:
            await teardown.run()  # also what an earlier engine has left
            try:
                marks = {LABEL_NODE_ID: self._node_id, CANARY: self._node_id}
                error = await self._docker.sdk.ask(lambda sdk: _start(sdk, tag, marks), timeout=self._times.canary)
            finally:
                await teardown.run()
                await self._docker.sdk.ask(lambda sdk: _forget(sdk, tag), timeout=self._times.canary)
        except Refusal as refusal:
            error = refusal.text
        except BeemeshError as failure:
            error = failure.message
        return "" if _LIVED.search(error) else error[:_MAX_TEXT] or "a container without a program has started"

    def _attributes(self, info: Mapping[str, Any], compose: str, compose_path: str) -> dict[str, str]:
        facts = {
            "backend_version": self.version,
            "runtime": str(info.get("DefaultRuntime", "")),
            "cgroup": f"v{info.get('CgroupVersion', '')}",
            "rootless": str(any("rootless" in option for option in info.get("SecurityOptions") or ())).lower(),
            "storage": str(info.get("Driver", "")),
            "compose_version": compose,
            "compose_path": compose_path,
            "socket": str(self._socket),
        }
        return {name: value for name, value in facts.items() if value}


def _info_and_version(sdk: APIClient) -> tuple[dict[str, Any], dict[str, Any]]:
    return sdk.info(), sdk.version(api_version=False)


def _start(sdk: APIClient, tag: str, marks: Mapping[str, str]) -> str:
    """Make the image, then a container of it, and start that; the error of the start."""
    from docker.errors import APIError

    sdk.import_image_from_data(_empty_root(), repository=CANARY_IMAGE, tag=tag)
    name = f"bm-canary-{tag}"
    made = sdk.create_container(f"{CANARY_IMAGE}:{tag}", command=[_PROGRAM], name=name, labels=dict(marks))
    try:
        sdk.start(made["Id"])
    except APIError as error:
        return str(error.explanation or error)
    return ""


def _forget(sdk: APIClient, tag: str) -> None:
    from docker.errors import APIError

    try:
        sdk.remove_image(f"{CANARY_IMAGE}:{tag}")
    except APIError as error:
        if error.response.status_code != 404:
            raise


def _empty_root() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(entry)
    return buffer.getvalue()
