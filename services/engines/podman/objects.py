"""The calls of podman's REST API that make pods, containers and volumes, one function a call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from services.engines.compose.labels import PROJECT
from services.engines.podman.api import API_VERSION, Deadlines
from services.engines.podman.http import Refusal, Reply, UnixHttp

_LIBPOD = f"/v{API_VERSION}/libpod"
_WAIT_INTERVAL = "20ms"
_CALLS = 64
_LOOKS = 5
_GONE_MEANWHILE = re.compile(r"no such (volume|container|pod)")


class Objects:
    """One podman service. Calls raise Unavailable, DeadlineExceeded, or Refusal with podman's status and text."""

    def __init__(self, socket: Path, *, deadlines: Deadlines | None = None) -> None:
        self._http = UnixHttp(socket, concurrency=_CALLS)
        self._deadlines = deadlines or Deadlines()

    # Pods and containers

    async def create_pod(self, body: Mapping[str, Any]) -> str:
        """Make a pod, not started; its id."""
        return str((await self._post("/pods/create", body)).json()["Id"])

    async def infra(self, pod: str) -> str:
        """The id of a pod's infra container."""
        return str((await self._get(f"/pods/{pod}/json")).json()["InfraContainerID"])

    async def create_container(self, body: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
        """Make a container, not started; its id, and podman's warnings."""
        made = (await self._post("/containers/create", body)).json()
        return str(made["Id"]), made.get("Warnings") or ()

    async def start(self, container: str) -> None:
        """Start a container, and its pod with it."""
        await self._post(f"/containers/{container}/start")

    async def wait(self, container: str, *, timeout: float) -> int:
        """Wait until a container has ended; its exit code."""
        query = {"condition": "stopped", "interval": _WAIT_INTERVAL}
        return int((await self._post(f"/containers/{container}/wait", query=query, timeout=timeout)).body)

    async def remove_container(self, container: str) -> None:
        """Remove a container with its anonymous volumes, killing it if it runs; one that is gone is no error."""
        await self._delete(f"/containers/{container}", {"force": "true", "v": "true"})

    async def put_archive(self, container: str, path: str, tar: bytes) -> None:
        """Unpack a tar archive in a container that need not run, owners and modes as the archive has them."""
        query = {"path": path, "copyUIDGID": "false"}
        _accepted(
            await self._http.call(
                "PUT",
                f"{_LIBPOD}/containers/{container}/archive",
                query=query,
                body=tar,
                content_type="application/x-tar",
                timeout=self._deadlines.change,
            )
        )

    async def image_user(self, reference: str) -> str:
        """The user that an image names; empty when it names none."""
        found = (await self._get(f"/images/{quote(reference, safe='')}/json")).json()
        return str(found.get("User") or (found.get("Config") or {}).get("User") or "")

    # Volumes

    async def volume(self, name: str) -> dict[str, Any] | None:
        """A volume, or None when there is none of this name."""
        try:
            found: dict[str, Any] = (await self._get(f"/volumes/{quote(name)}/json")).json()
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise
        return found

    async def create_volume(
        self, name: str, *, labels: Mapping[str, str], options: Mapping[str, str]
    ) -> dict[str, Any]:
        """Make a volume; a Refusal when there is one of this name."""
        body = {"Name": name, "Driver": "local", "Label": dict(labels), "Options": dict(options)}
        made: dict[str, Any] = (await self._post("/volumes/create", body)).json()
        return made

    async def volumes(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The volumes of Pods that carry all these labels; podman's own filter is content with any of them (4.3)."""
        filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
        found = await self._listed("/volumes/json", {"filters": json.dumps(filters)})
        marked = ((volume, volume.get("Labels") or {}) for volume in found)
        return [volume for volume, marks in marked if labels.items() <= marks.items() and PROJECT not in marks]

    async def _listed(self, target: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """A list; podman (4.3) fails when one of the things in it goes while it looks, and is asked again then."""
        for _ in range(_LOOKS - 1):
            try:
                return (await self._get(target, query)).json() or []
            except Refusal as refusal:
                if not _GONE_MEANWHILE.search(refusal.text):
                    raise
        return (await self._get(target, query)).json() or []

    async def remove_volume(self, name: str) -> None:
        """Remove a volume that no container uses; one that is gone is no error."""
        await self._delete(f"/volumes/{quote(name)}", {})

    async def _get(self, target: str, query: Mapping[str, str] | None = None) -> Reply:
        reply = await self._http.call("GET", _LIBPOD + target, query=query, timeout=self._deadlines.read)
        return _accepted(reply)

    async def _post(
        self,
        target: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        reply = await self._http.call(
            "POST",
            _LIBPOD + target,
            query=query,
            body=b"" if body is None else json.dumps(body).encode(),
            content_type="" if body is None else "application/json",
            timeout=timeout or self._deadlines.change,
        )
        return reply if reply.status == 304 else _accepted(reply)  # 304: it runs already

    async def _delete(self, target: str, query: Mapping[str, str]) -> None:
        reply = await self._http.call("DELETE", _LIBPOD + target, query=query, timeout=self._deadlines.change)
        if reply.status != 404:
            _accepted(reply)


def _accepted(reply: Reply) -> Reply:
    if not reply.ok:
        raise Refusal(reply.status, reply.error_text)
    return reply
