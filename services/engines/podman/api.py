"""The calls of podman's libpod REST API that the engine makes, each with its deadline; answers as podman gives them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.compose.labels import PROJECT
from services.engines.podman.http import Refusal, Reply, UnixHttp
from services.engines.streams import closed_after

API_VERSION = "4.0.0"
"""The oldest that has all calls below; podman 4 and 5 both serve it."""

_LIBPOD = f"/v{API_VERSION}/libpod"

_PULL = "/v1.40/images/create"

_SLOW_CALLS = 64
"""Pulls, plays and stops at a time."""

_CONTAINER_EVENTS = ("create", "start", "died", "remove", "oom", "pause", "unpause")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds that podman is given to answer."""

    read: float = 10.0
    """Lists, inspections."""
    change: float = 60.0
    """Play, kill, remove."""
    pull: float = 600.0
    """One image."""


class Podman:
    """One podman service. Calls raise Unavailable, DeadlineExceeded, or Refusal with podman's status and text."""

    def __init__(self, http: UnixHttp, *, deadlines: Deadlines | None = None) -> None:
        self._http = http
        self._slow = UnixHttp(http.path, concurrency=_SLOW_CALLS)
        """For calls that may take minutes, so that the others never wait for them."""
        self.deadlines = deadlines or Deadlines()
        self.socket = http.path

    async def pods(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The pods that carry all these labels."""
        reply = await self._read("/pods/json", {"filters": _label_filter(labels)})
        return reply.json() or []

    async def containers(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The containers of Pods, running or not, that carry all these labels; infra containers are left out."""
        reply = await self._read("/containers/json", {"all": "true", "filters": _label_filter(labels)})
        return [each for each in reply.json() or [] if not each.get("IsInfra") and not _is_composes(each)]

    async def inspect(self, container: str) -> dict[str, Any]:
        """All about one container."""
        found: dict[str, Any] = (await self._read(f"/containers/{container}/json", {})).json()
        return found

    async def play(
        self, documents: Sequence[Mapping[str, Any]], *, annotations: Mapping[str, str], network: str
    ) -> list[str]:
        """Create and start pods; the errors of their containers' starts. HTTP 200 alone is not success.

        The documents go as JSON, which is YAML that no version of YAML reads differently. Annotations go beside them:
        podman 4.3 refuses values of more than 63 characters inside.
        """
        query = {"network": network}
        if annotations:
            query["annotations"] = json.dumps(dict(annotations))
        reply = await self._slow.call(
            "POST",
            f"{_LIBPOD}/play/kube",
            query=query,
            body=b"\n---\n".join(json.dumps(document).encode() for document in documents),
            content_type="application/yaml",  # a form type would make the body empty
            timeout=self.deadlines.change,
        )
        pods: list[dict[str, Any]] = _accepted(reply).json().get("Pods") or []
        return [str(error) for pod in pods for error in pod.get("ContainerErrors") or []]

    async def stop(self, container: str, *, seconds: int) -> None:
        """Its stop signal, then KILL after so many seconds (at least 1: podman takes 0 for 10); it stays stopped."""
        reply = await self._slow.call(
            "POST",
            f"{_LIBPOD}/containers/{container}/stop",
            query={"timeout": str(seconds)},
            timeout=seconds + self.deadlines.change,
        )
        if reply.status not in (304, 404):  # it does not run, or is gone
            _accepted(reply)

    async def kill_pod(self, pod: str) -> None:
        """KILL every container of a pod; a Refusal when none runs."""
        await self._change("POST", f"/pods/{pod}/kill", {"signal": "KILL"})

    async def remove_pod(self, pod: str) -> None:
        """Remove a pod with its containers and their anonymous volumes, killing what still runs."""
        await self._change("DELETE", f"/pods/{pod}", {"force": "true"})

    async def pull(self, reference: str, *, auth: str) -> AsyncIterator[dict[str, Any]]:
        """Pull an image, whatever is here: podman's lines about each layer; an `error` in one is how a pull fails.

        `auth` is an X-Registry-Auth header; empty: podman's own configuration counts. The endpoint is Docker's, as only
        there podman 4 tells bytes. Closing the iterator ends the pull in podman too.
        """
        headers = {"X-Registry-Auth": auth} if auth else {}
        try:
            async with closed_after(self._slow.lines(_PULL, query={"fromImage": reference}, headers=headers)) as lines:
                async for line in lines:
                    yield line
        except Refusal as refusal:
            yield {"error": refusal.text}

    async def info(self, *, timeout: float) -> dict[str, Any]:
        """Version, host, storage."""
        reply = await self._http.call("GET", f"{_LIBPOD}/info", timeout=timeout)
        info: dict[str, Any] = _accepted(reply).json()
        return info

    def logs(self, container: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The log of a container as podman frames it; see `frames`."""
        asked = {"stdout": "true", "stderr": "true", "timestamps": "true", **query}
        return self._http.stream(f"{_LIBPOD}/containers/{container}/logs", query=asked)

    def events(self, labels: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The life events of the containers with these labels, as they happen."""
        filters = {"type": ["container"], "event": _CONTAINER_EVENTS, "label": _pairs(labels)}
        return self._http.stream(f"{_LIBPOD}/events", query={"stream": "true", "filters": json.dumps(filters)})

    async def _read(self, target: str, query: Mapping[str, str]) -> Reply:
        return _accepted(await self._http.call("GET", _LIBPOD + target, query=query, timeout=self.deadlines.read))

    async def _change(self, method: str, target: str, query: Mapping[str, str]) -> None:
        _accepted(await self._http.call(method, _LIBPOD + target, query=query, timeout=self.deadlines.change))


def _is_composes(listed: Mapping[str, Any]) -> bool:
    return PROJECT in (listed.get("Labels") or {})


def _accepted(reply: Reply) -> Reply:
    if not reply.ok:
        raise Refusal(reply.status, reply.error_text)
    return reply


def _label_filter(labels: Mapping[str, str]) -> str:
    return json.dumps({"label": _pairs(labels)})


def _pairs(labels: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in labels.items()]
