"""What podman has: everything before and after, so that what was left behind can be named."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TIMEOUT_SECONDS = 30
NODE_LABEL = "beemesh.io/node-id"


class PodmanFailed(Exception):
    """podman did not do what it was asked; the text is its own."""


def podman(*arguments: str, timeout: float = TIMEOUT_SECONDS) -> str:
    """Run podman; what it printed. Raises PodmanFailed."""
    try:
        done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PodmanFailed(f"podman {' '.join(arguments)}: {error}") from error
    if done.returncode != 0:
        raise PodmanFailed(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def listed(*arguments: str) -> list[dict[str, Any]]:
    """What a podman list command says, as JSON."""
    return json.loads(podman(*arguments, "--format", "json") or "[]") or []


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One container, pod, network, volume or image."""

    kind: str
    name: str
    node_id: str
    """The Beemesh node that it is labelled with, or ""."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def snapshot() -> frozenset[Object]:
    """Everything podman has."""
    found = [_object("container", item, item["Names"][0]) for item in listed("ps", "--all", "--external")]
    found += [_object("pod", item, item["Name"]) for item in listed("pod", "ps")]
    found += [_object("network", item, item["name"]) for item in listed("network", "ls")]
    found += [_object("volume", item, item["Name"]) for item in listed("volume", "ls")]
    for item in listed("images", "--all"):
        names: Sequence[str] = item.get("Names") or [item["Id"]]
        found += [_object("image", item, name) for name in names]
    return frozenset(found)


def _object(kind: str, item: Mapping[str, Any], name: str) -> Object:
    labels: Mapping[str, str] = item.get("Labels") or item.get("labels") or {}
    return Object(kind=kind, name=name, node_id=labels.get(NODE_LABEL, ""))


def left_behind(before: frozenset[Object], node_id: str, *, settle_seconds: float = 3.0) -> list[Object]:
    """What is there now and was not before, but for what another node made; given a moment to settle."""

    def left() -> list[Object]:
        new = snapshot() - before
        return sorted((item for item in new if item.node_id in ("", node_id)), key=str)

    return _settled(left, settle_seconds)


def _settled(look: Callable[[], list[Object]], seconds: float) -> list[Object]:
    until = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def remove(item: Object) -> None:
    """Remove one object; raises PodmanFailed."""
    commands = {"image": ("rmi",), "network": ("network", "rm"), "volume": ("volume", "rm"), "pod": ("pod", "rm", "-f")}
    podman(*commands.get(item.kind, ("rm", "-f")), item.name)


def purge(node_id: str) -> list[str]:
    """Remove all that carries this node's label, for who has to leave a clean machine after a failure; its names."""
    label = f"label={NODE_LABEL}={node_id}"
    removed: list[str] = []
    for listing, removal in (
        (("pod", "ps"), ("pod", "rm", "-f", "-t", "0")),
        (("ps", "--all"), ("rm", "-f", "-t", "0")),
        (("network", "ls"), ("network", "rm", "-f")),
        (("volume", "ls"), ("volume", "rm", "-f")),
    ):
        for name in podman(*listing, "--filter", label, "--quiet").split():
            podman(*removal, name)
            removed.append(name)
    return removed
