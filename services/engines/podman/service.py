"""Finds the podman service to talk to, or runs one of the engine's own that cannot outlive it; containers outlive both.

podman has no daemon: its service is a process that answers the REST API, while each container is held by a conmon of
its own. Killing the service or the engine touches no container.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.bound import bound
from services.engines.podman.http import UnixHttp
from services.engines.podman.machine import needed_config, this_machine, with_exec_delay
from services.errors import BeemeshError, FailedPrecondition
from services.telemetry import Log

SYSTEM_SOCKET = Path("/run/podman/podman.sock")
_SYSTEM_CERTS = "/etc/ssl/certs"
_OWN_SOCKET = "podman-api.sock"
_SOCKET_PATH_MAX = 100
_BACK_OFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before the first, second, … restart in a row."""
_STEADY_SECONDS = 30.0
_START_SECONDS = 3.0
_STOP_SECONDS = 3.0
_STDERR_LINES = 20
_ASK_SECONDS = 1.0

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Where podman is."""

    socket: Path | None
    """Its API socket; None: the environment's, the system's if it answers, else a service of our own."""
    binary: str
    """The podman program, a name or a path."""
    containers_conf: Path | None
    """Configuration for a service of our own; None: written where this machine needs one."""
    run_dir: Path
    data_dir: Path
    registry_certs: Path | None = None
    """Certificate authorities of registries, beside the system's."""


class PodmanService:
    """The service behind `socket`; `async with` settles which one it is and keeps one of our own running."""

    def __init__(self, settings: ServiceSettings, *, env: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._env = env
        self._tasks = asyncio.TaskGroup()
        self._keeper: asyncio.Task[None] | None = None
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self.binary = shutil.which(settings.binary)
        """The program's path, or None when it is not installed."""
        self.socket = settings.socket or _named_socket(env) or SYSTEM_SOCKET
        """The API socket, final once entered."""
        self.pid: int | None = None
        """The process id of a service of our own, while it runs."""
        self.starts = 0
        """How often a service of our own was started."""

    @property
    def is_own(self) -> bool:
        """Whether the engine runs the service itself."""
        return self._keeper is not None

    @property
    def is_roots(self) -> bool:
        """Whether the service is root's, as far as its socket tells; one of our own is ours."""
        if self.is_own:
            return os.geteuid() == 0
        try:
            return self.socket.stat().st_uid == 0
        except OSError:
            return os.geteuid() == 0

    @property
    def run_dir(self) -> Path:
        """Where the engine has its sockets."""
        return self._settings.run_dir

    @property
    def data_dir(self) -> Path:
        """Where the engine keeps what must survive a restart."""
        return self._settings.data_dir

    @property
    def last_words(self) -> str:
        """What a service of our own wrote last on stderr."""
        return "\n".join(self._stderr)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        named = self._settings.socket or _named_socket(self._env)
        if named is None and self.binary is not None and not await _answers(SYSTEM_SOCKET):
            self.socket = self._settings.run_dir / _OWN_SOCKET
            check_length(self.socket)
            self.socket.unlink(missing_ok=True)  # of a service that died with an earlier engine
            self._keeper = self._tasks.create_task(self._keep(self.binary))
            await self.wait_for_socket()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def wait_for_socket(self) -> None:
        """Give a service of our own, just started, a moment to listen; it takes 40 ms; three seconds at most."""
        if not self.is_own:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while not await self._listens():  # noqa: ASYNC110 - a socket tells nobody
                    await asyncio.sleep(0.01)

    async def _listens(self) -> bool:
        """The socket's file is there a moment before somebody listens at it."""
        try:
            _, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        writer.transport.abort()
        return True

    async def _keep(self, binary: str) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                code = await self._run(binary)
            except OSError as error:
                self._stderr.append(str(error))
                code = -1
            failures = 1 if time.monotonic() - began >= _STEADY_SECONDS else failures + 1
            delay = _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]
            log.warning("podman_service_ended", code=code, again_in_seconds=delay, stderr=self.last_words[-500:])
            await asyncio.sleep(delay)

    async def _run(self, binary: str) -> int:
        """One life of the service."""
        workdir = self._prepare()
        process = await asyncio.create_subprocess_exec(
            *bound(binary, "system", "service", "--time=0", f"unix://{self.socket}"),
            cwd=workdir,
            env=self._child_env(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C meant for the engine is not podman's
        )
        self.pid = process.pid
        self.starts += 1
        log.info("podman_service_started", service_pid=process.pid, socket=self.socket, binary=binary)
        try:
            await self._listen_to(process)
            return await process.wait()
        finally:
            self.pid = None
            await _end(process)
            self.socket.unlink(missing_ok=True)

    def _prepare(self) -> Path:
        """An empty working directory: a folder there that is named like an image would be built as one."""
        self._settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        workdir = self._settings.run_dir / "podman-empty"
        shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir(mode=0o700)
        return workdir

    def _child_env(self) -> dict[str, str]:
        env = {name: value for name, value in self._env.items() if name not in ("CONTAINER_HOST", "NOTIFY_SOCKET")}
        if self._settings.containers_conf is not None:
            env["CONTAINERS_CONF"] = str(self._settings.containers_conf)
        elif (config := self._base_config(env)) is not None:
            path = self._settings.data_dir / "containers.conf"
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(f"# Written by beemesh at each start.\n{with_exec_delay(config)}")
            env["CONTAINERS_CONF"] = str(path)
        if self._settings.registry_certs is not None:  # Go reads it beside the system's bundle
            env["SSL_CERT_DIR"] = f"{env.get('SSL_CERT_DIR', _SYSTEM_CERTS)}:{self._settings.registry_certs}"
        return env

    @staticmethod
    def _base_config(env: Mapping[str, str]) -> str | None:
        """What a configuration of our own begins with; None: podman's stays in place, as somebody wrote it."""
        if given := env.get("CONTAINERS_CONF"):
            try:
                return Path(given).read_text()
            except OSError:  # podman says better what is wrong with it
                return None
        machine = this_machine(has_runc=_has("runc"))
        return None if machine.has_admin_config else needed_config(machine)

    async def _listen_to(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        with suppress(ValueError):  # a line beyond the reader's limit: what follows is not worth keeping
            while line := await process.stderr.readline():
                self._stderr.append(line.decode(errors="replace").rstrip()[:500])
                log.debug("podman_service_said", text=self._stderr[-1])


async def _end(process: asyncio.subprocess.Process) -> None:
    """TERM, then KILL; the containers do not notice."""
    for stop in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()


def _named_socket(env: Mapping[str, str]) -> Path | None:
    """The socket in $CONTAINER_HOST. Raises FailedPrecondition when it names another kind of host."""
    host = env.get("CONTAINER_HOST", "")
    if not host:
        return None
    if not host.startswith("unix://"):
        raise FailedPrecondition(
            f"CONTAINER_HOST={host}: engine podman speaks to unix:// sockets only; unset it or set podman_socket",
            reason="BAD_CONTAINER_HOST",
        )
    return Path(host.removeprefix("unix://"))


async def _answers(socket: Path) -> bool:
    try:
        reply = await UnixHttp(socket).call("GET", "/libpod/_ping", timeout=_ASK_SECONDS)
    except BeemeshError:
        return False
    return reply.ok


def check_length(socket: Path) -> None:
    """Raise FailedPrecondition(SOCKET_PATH_TOO_LONG) where the system would not take it."""
    if len(os.fsencode(socket)) > _SOCKET_PATH_MAX:
        raise FailedPrecondition(
            f"socket path {socket} is longer than {_SOCKET_PATH_MAX} bytes; choose a shorter run_dir",
            reason="SOCKET_PATH_TOO_LONG",
        )


def _has(program: str) -> bool:
    return shutil.which(program) is not None
