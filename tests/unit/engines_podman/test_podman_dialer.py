"""Where probes and hooks reach a container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.engines.podman.api import Deadlines
from services.engines.podman.dialer import Dialer
from services.engines.podman.http import Refusal
from services.errors import Unavailable


class Infra:
    """A podman that knows one pod: container `c`, and infra container `i` with the pod's network."""

    socket = Path("/none")
    deadlines = Deadlines()

    def __init__(self, address: str, *, mode: str = "bridge") -> None:
        self.address = address
        self.mode = mode
        self.asked: list[str] = []

    async def inspect(self, container: str) -> dict[str, Any]:
        """How it is connected."""
        self.asked.append(container)
        if container == "c":
            return {"HostConfig": {"NetworkMode": "container:i"}, "NetworkSettings": {}}
        if container != "i":
            raise Refusal(404, "no such container")
        networks = {"podman": {"IPAddress": self.address}}
        return {"HostConfig": {"NetworkMode": self.mode}, "NetworkSettings": {"IPAddress": "", "Networks": networks}}


def dialer(podman: Infra) -> Dialer:
    """On this podman."""
    return Dialer(podman)  # type: ignore[arg-type]  # it has what is called


async def test_a_pod_is_reached_at_its_own_address_which_is_asked_once_a_run() -> None:
    """The address is the infra container's; after `forget` it is asked anew, as the pod may have another."""
    podman = Infra("10.88.0.7")
    target = dialer(podman)
    assert [await target.dial("c", 80), await target.dial("c", 81)] == [("10.88.0.7", 80), ("10.88.0.7", 81)]
    assert podman.asked == ["c", "i"]
    podman.address = "10.88.0.8"
    assert await target.dial("c", 80) == ("10.88.0.7", 80)
    target.forget("c")
    assert await target.dial("c", 80) == ("10.88.0.8", 80)


async def test_a_pod_on_the_hosts_network_is_reached_here() -> None:
    """It listens on this machine."""
    assert await dialer(Infra("", mode="host")).dial("c", 80) == ("127.0.0.1", 80)


@pytest.mark.parametrize("mode", ["bridge", "slirp4netns"])
async def test_a_pod_without_an_address_cannot_be_probed(mode: str) -> None:
    """That says nothing about the container, and is told as what it is."""
    with pytest.raises(Unavailable, match="rootless"):
        await dialer(Infra("", mode=mode)).dial("c", 80)


async def test_a_container_that_is_gone_cannot_be_probed() -> None:
    """Nor does that say anything about it."""
    with pytest.raises(Unavailable, match="no such container"):
        await dialer(Infra("10.88.0.7")).dial("gone", 80)
