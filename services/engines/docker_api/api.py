"""The calls of docker's API that the engine makes, each with its deadline; answers as docker gives them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlencode

from services.engines.docker_api.sdk import API_VERSION, Sdk
from services.engines.streams import closed_after
from services.engines.unix_http import Duplex, Refusal, Reply, UnixHttp

if TYPE_CHECKING:
    from docker import APIClient

_V = f"/v{API_VERSION}"
_CONTAINER_EVENTS = ("create", "start", "die", "destroy", "oom", "pause", "unpause", "health_status")
_SLOW_CALLS = 64
"""Stops and removals at a time."""

_TRIES = 5
_GONE = re.compile(r"no such (container|network|volume)|does not exist in database", re.IGNORECASE)

Inspected = dict[str, Any]
T = TypeVar("T")
Labels = Mapping[str, str | None]
"""What something must carry: a label with this value, or any where that is empty, and not at all where it is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds that docker is given to answer."""

    read: float = 10.0
    """Lists, inspections."""
    change: float = 60.0
    """Starts, removals; stops beyond the grace period."""


class Docker:
    """One daemon. Calls raise Unavailable, DeadlineExceeded, or Refusal with its status and text.

    `async with` bounds the SDK's threads.
    """

    sdk: Sdk
    """Once entered; as all else."""
    _http: UnixHttp
    _slow: UnixHttp
    """For calls that may take minutes, so that the others never wait for them."""

    def __init__(
        self, socket: Callable[[], Path], *, backend: str = "docker", deadlines: Deadlines | None = None
    ) -> None:
        """`socket` is asked for when this is entered; `backend` is what it is called where something is said of it."""
        self._socket = socket
        self.backend = backend
        self._deadlines = deadlines or Deadlines()

    async def __aenter__(self) -> Self:
        socket = self._socket()
        self.sdk = Sdk(socket, backend=self.backend, read=self._deadlines.read)
        self._http = UnixHttp(socket, backend=self.backend)
        self._slow = UnixHttp(socket, backend=self.backend, concurrency=_SLOW_CALLS)
        await self.sdk.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.sdk.close()

    # Questions

    async def containers(self, labels: Labels) -> list[Inspected]:
        """All about the containers, running or not, that carry all these labels."""
        return await self.sdk.ask(lambda sdk: list(_inspected(sdk, labels)))

    async def inspect(self, container: str) -> Inspected:
        """All about one container."""
        found: Inspected = await self.sdk.ask(lambda sdk: sdk.inspect_container(container))
        return found

    async def networks(self, labels: Labels) -> list[dict[str, Any]]:
        """The networks that carry all these labels."""
        found: list[dict[str, Any]] = await self.sdk.ask(
            lambda sdk: _settled(lambda: sdk.networks(filters={"label": _pairs(labels)}))
        )
        return [each for each in found if _carries(each.get("Labels"), labels)]

    async def volumes(self, labels: Labels) -> list[dict[str, Any]]:
        """The volumes that carry all these labels."""
        found = await self.sdk.ask(lambda sdk: _settled(lambda: sdk.volumes(filters={"label": _pairs(labels)})))
        return [each for each in found.get("Volumes") or [] if _carries(each.get("Labels"), labels)]

    async def counters(self, container: str) -> dict[str, Any]:
        """What it has used so far, and had a second before; docker takes that second. Empty when it is gone."""
        target = f"{_V}/containers/{quote(container)}/stats"
        reply = await self._slow.call("GET", target, query={"stream": "false"}, timeout=self._deadlines.read)
        found: dict[str, Any] = _unless(reply, 404).json() if reply.status != 404 else {}
        return found

    async def volume(self, name: str) -> dict[str, Any] | None:
        """A volume, or None when there is none of this name."""
        return await self._look(f"/volumes/{quote(name, safe='')}")

    async def image(self, reference: str) -> dict[str, Any] | None:
        """A local image, or None."""
        return await self._look(f"/images/{quote(reference, safe='')}/json")

    async def version(self) -> dict[str, Any]:
        """Its own, and its machine's architecture."""
        reply = await self._http.call("GET", f"{_V}/version", timeout=self._deadlines.read)
        found: dict[str, Any] = _unless(reply).json()
        return found

    # Changes

    async def create_container(self, name: str, body: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
        """Make a container, not started; its id, and docker's warnings."""
        made = _unless(await self._change("POST", "/containers/create", {"name": name}, body=body)).json()
        return str(made["Id"]), made.get("Warnings") or ()

    async def create_network(self, body: Mapping[str, Any]) -> str:
        """Make a network; its id."""
        return str(_unless(await self._change("POST", "/networks/create", body=body)).json()["Id"])

    async def create_volume(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a volume; where one of its name and driver is there, that one."""
        made: dict[str, Any] = _unless(await self._change("POST", "/volumes/create", body=body)).json()
        return made

    async def put_archive(self, container: str, path: str, tar: bytes) -> None:
        """Unpack a tar archive in a container that need not run, owners and modes as the archive has them."""
        target = f"{_V}/containers/{quote(container)}/archive"
        timeout = self._deadlines.change
        kind = "application/x-tar"
        _unless(
            await self._slow.call("PUT", target, query={"path": path}, body=tar, content_type=kind, timeout=timeout)
        )

    async def wait(self, container: str, *, timeout: float) -> int:
        """Wait until a container that was started has ended; its exit code."""
        target = f"{_V}/containers/{quote(container)}/wait"
        reply = await self._slow.call("POST", target, query={"condition": "not-running"}, timeout=timeout)
        return int(_unless(reply).json()["StatusCode"])

    async def import_image(self, reference: str, tar: bytes, changes: Sequence[str]) -> None:
        """Make an image of a file system; `changes` are Dockerfile instructions."""
        name, _, tag = reference.rpartition(":")
        query = urlencode(
            [("fromSrc", "-"), ("repo", name), ("tag", tag), *(("changes", change) for change in changes)]
        )
        target = f"{_V}/images/create?{query}"
        kind = "application/x-tar"
        _unless(await self._slow.call("POST", target, body=tar, content_type=kind, timeout=self._deadlines.change))

    async def stop(self, container: str, *, seconds: int | None, grace: float) -> None:
        """Its stop signal, then KILL after so many seconds (None: its own, `grace`); whether it runs or not."""
        query = {} if seconds is None else {"t": str(seconds)}
        timeout = self._deadlines.change + (grace if seconds is None else seconds)
        reply = await self._slow.call("POST", f"{_V}/containers/{quote(container)}/stop", query=query, timeout=timeout)
        _unless(reply, 304, 404)

    async def start(self, container: str) -> None:
        """Start it; one that runs is left alone."""
        _unless(await self._change("POST", f"/containers/{quote(container)}/start"), 304)

    async def signal(self, container: str, name: str) -> None:
        """Send a signal to its first process, if it has one."""
        _unless(await self._change("POST", f"/containers/{quote(container)}/kill", {"signal": name}), 404, 409)

    async def remove_container(self, container: str) -> None:
        """Remove it with its anonymous volumes, killing what still runs."""
        reply = await self._change("DELETE", f"/containers/{quote(container)}", {"force": "1", "v": "1"})
        _unless(reply, 404, 409)  # 409: its removal is under way

    async def remove_network(self, network: str) -> None:
        """Remove it; a Refusal while something is in it."""
        _unless(await self._change("DELETE", f"/networks/{quote(network)}"), 404)

    async def remove_volume(self, volume: str) -> None:
        """Remove it; a Refusal while a container has it."""
        _unless(await self._change("DELETE", f"/volumes/{quote(volume, safe='')}"), 404)

    # Streams

    async def pull(self, reference: str, *, auth: str) -> AsyncIterator[dict[str, Any]]:
        """Pull an image, whatever is here: docker's lines about each layer; an `error` in one is how a pull fails.

        `auth` is an X-Registry-Auth header, or empty. Closing the iterator ends the pull in docker too.
        """
        headers = {"X-Registry-Auth": auth} if auth else {}
        target = f"{_V}/images/create"
        try:
            async with closed_after(self._slow.lines(target, query={"fromImage": reference}, headers=headers)) as lines:
                async for line in lines:
                    yield line
        except Refusal as refusal:
            yield {"error": refusal.text}

    def logs(self, container: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Its log, in frames where it has no terminal."""
        asked = {"stdout": "1", "stderr": "1", "timestamps": "1", **query}
        return self._slow.stream(f"{_V}/containers/{quote(container)}/logs", query=asked)

    def events(self, labels: Labels) -> AsyncIterator[bytes]:
        """The life events of the containers with these labels, as they happen."""
        filters = {"type": ["container"], "event": list(_CONTAINER_EVENTS), "label": _pairs(labels)}
        return self._slow.stream(f"{_V}/events", query={"filters": json.dumps(filters)})

    # Commands

    async def create_exec(self, container: str, command: Sequence[str], *, tty: bool) -> str:
        """Prepare a command; its id."""
        asked = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": tty, "Cmd": list(command)}
        reply = await self._change("POST", f"/containers/{quote(container)}/exec", body=asked)
        return str(_unless(reply).json()["Id"])

    def start_exec(self, session: str, *, tty: bool) -> AbstractAsyncContextManager[Duplex]:
        """Run it; what it reads and writes. Leaving the block closes the stream and ends nothing."""
        asked = json.dumps({"Detach": False, "Tty": tty}).encode()
        return self._slow.upgrade(f"{_V}/exec/{quote(session)}/start", timeout=self._deadlines.change, body=asked)

    async def resize_exec(self, session: str, *, rows: int, columns: int) -> None:
        """The size of its terminal; a Refusal when it does not run."""
        _unless(await self._change("POST", f"/exec/{quote(session)}/resize", {"h": str(rows), "w": str(columns)}))

    async def inspect_exec(self, session: str) -> dict[str, Any]:
        """`Running`, `Pid` (the host's; 0 when it never ran) and `ExitCode` (None while it runs)."""
        reply = await self._http.call("GET", f"{_V}/exec/{quote(session)}/json", timeout=self._deadlines.read)
        found: dict[str, Any] = _unless(reply).json()
        return found

    async def processes(self, container: str) -> list[int]:
        """The host's pids of its processes."""
        target = f"{_V}/containers/{quote(container)}/top"
        reply = await self._http.call("GET", target, query={"ps_args": "-eo pid"}, timeout=self._deadlines.read)
        return [int(row[0]) for row in _unless(reply).json()["Processes"] or []]

    async def _look(self, target: str) -> dict[str, Any] | None:
        """What is there, or None."""
        reply = await self._http.call("GET", _V + target, timeout=self._deadlines.read)
        if reply.status == 404:
            return None
        found: dict[str, Any] = _unless(reply).json()
        return found

    async def _change(
        self, method: str, target: str, query: Mapping[str, str] | None = None, *, body: object = None
    ) -> Reply:
        sent = b"" if body is None else json.dumps(body).encode()
        return await self._slow.call(
            method,
            _V + target,
            query=query,
            body=sent,
            content_type="application/json" if sent else "",
            timeout=self._deadlines.change,
        )


def _inspected(sdk: APIClient, labels: Labels) -> Iterable[Inspected]:
    """The list tells neither exit codes nor restarts, so each is looked at."""
    for listed in _settled(lambda: sdk.containers(all=True, filters={"label": _pairs(labels)})):
        if not _carries(listed.get("Labels"), labels):
            continue
        if (found := _unless_gone(partial(sdk.inspect_container, listed["Id"]))) is not None:
            yield found


def _unless_gone(question: Callable[[], T]) -> T | None:
    from docker.errors import APIError

    try:
        return question()
    except APIError as error:
        if error.response.status_code != 404 and not _GONE.search(str(error.explanation)):
            raise
        return None


def _settled(question: Callable[[], T]) -> T:
    """A list: podman's fails when something goes while it is being made."""
    for _ in range(_TRIES):
        if (found := _unless_gone(question)) is not None:
            return found
    return question()


def _unless(reply: Reply, *expected: int) -> Reply:
    """The reply; a Refusal unless it is a success, or one of the other statuses that will do."""
    if not reply.ok and reply.status not in expected:
        raise Refusal(reply.status, reply.error_text)
    return reply


def _pairs(labels: Labels) -> list[str]:
    return [f"{key}={value}" if value else key for key, value in labels.items() if value is not None]


def _carries(found: Mapping[str, str] | None, labels: Labels) -> bool:
    """Podman is content with any of the labels that it is asked for (4.3)."""
    marks = found or {}
    return all(
        key not in marks if value is None else key in marks and value in ("", marks[key])
        for key, value in labels.items()
    )
