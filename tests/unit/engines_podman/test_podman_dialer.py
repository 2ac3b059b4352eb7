"""Where probes reach a container."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.engines.podman.dialer import Dialer
from services.engines.podman.http import UnixHttp
from services.engines.podman.supervision import Orders, Sighting
from services.engines.probes import Probes
from services.engines.restarts import Policy
from services.errors import FailedPrecondition, Unavailable

SEEN = Sighting(
    container_id="c",
    name="main",
    workload_id="w",
    infra_id="i",
    orders=Orders(policy=Policy.ALWAYS, host_network=False, grace_seconds=30.0, probes=Probes()),
    run="r0",
    started_at=0.0,
    running=True,
    exit=None,
)


class Infra:
    """A podman that knows one pod's network."""

    def __init__(self, networks: dict[str, Any]) -> None:
        self.networks = networks
        self.asked: list[str] = []

    async def inspect(self, container: str) -> dict[str, Any]:
        """Its network settings."""
        self.asked.append(container)
        return {"NetworkSettings": {"IPAddress": "", "Networks": self.networks}}


def dialer(podman: Infra, seen: Sighting | None) -> Dialer:
    """For the one container that is seen."""
    return Dialer(podman=podman, http=UnixHttp(Path("/none")), find=lambda _: seen)  # type: ignore[arg-type]  # it has what is called


async def test_a_pod_is_reached_at_its_own_address_which_is_asked_once_a_run() -> None:
    """The address is the infra container's; a new run asks anew, as the pod may have another."""
    podman, seen = Infra({"podman": {"IPAddress": "10.88.0.7"}}), [SEEN]
    target = Dialer(podman=podman, http=UnixHttp(Path("/none")), find=lambda _: seen[0])  # type: ignore[arg-type]  # it has what is called
    assert [await target.dial("c", 80), await target.dial("c", 81)] == [("10.88.0.7", 80), ("10.88.0.7", 81)]
    assert podman.asked == ["i"]
    podman.networks["podman"]["IPAddress"] = "10.88.0.8"
    seen[0] = replace(SEEN, run="r1")
    assert await target.dial("c", 80) == ("10.88.0.8", 80)


async def test_a_pod_on_the_hosts_network_is_reached_here() -> None:
    """It listens on this machine, and podman is not asked."""
    podman = Infra({})
    host = replace(SEEN, orders=replace(SEEN.orders, host_network=True))
    assert await dialer(podman, host).dial("c", 80) == ("127.0.0.1", 80)
    assert podman.asked == []


async def test_a_pod_without_an_address_cannot_be_probed() -> None:
    """That says nothing about the container, and is told as what it is."""
    with pytest.raises(Unavailable, match="rootless"):
        await dialer(Infra({"podman": {"IPAddress": ""}}), SEEN).dial("c", 80)


@pytest.mark.parametrize("seen", [None, replace(SEEN, running=False)])
async def test_what_does_not_run_is_not_probed(seen: Sighting | None) -> None:
    """Neither by its address nor by a command."""
    target = dialer(Infra({}), seen)
    with pytest.raises(FailedPrecondition):
        await target.dial("c", 80)
    with pytest.raises(FailedPrecondition):
        await target.exec("c", ["true"], 1.0)
