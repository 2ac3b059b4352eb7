"""A removal is over when docker has said twice that nothing is left, and says what it could not remove."""

from __future__ import annotations

from typing import Any, cast

import pytest

from services.engines.docker_api import teardown
from services.engines.docker_api.api import Docker
from services.engines.docker_api.teardown import Teardown
from services.engines.unix_http import Refusal
from services.errors import Internal


class Leftovers:
    """A docker whose containers come into being look by look; networks and volumes are there from the start."""

    backend = "docker"

    def __init__(self, *looks: list[str], networks: list[str] | None = None, volumes: list[str] | None = None) -> None:
        self._looks = list(looks)
        self._networks = networks or []
        self._volumes = volumes or []
        self._there: list[str] = []
        self.removed: list[str] = []
        self.refuses = ""

    async def containers(self, labels: object) -> list[dict[str, Any]]:
        """What is there at this look."""
        self._there += self._looks.pop(0) if self._looks else []
        return [{"Id": name} for name in self._there]

    async def networks(self, labels: object) -> list[dict[str, Any]]:
        """The networks."""
        return [{"Id": name} for name in self._networks]

    async def volumes(self, labels: object) -> list[dict[str, Any]]:
        """The volumes."""
        return [{"Name": name} for name in self._volumes]

    async def remove_container(self, name: str) -> None:
        """One less."""
        self._remove(self._there, name)

    async def remove_network(self, name: str) -> None:
        """One less."""
        self._remove(self._networks, name)

    async def remove_volume(self, name: str) -> None:
        """One less."""
        self._remove(self._volumes, name)

    def _remove(self, kept: list[str], name: str) -> None:
        if name == self.refuses:
            raise Refusal(500, f"{name} is busy")
        kept.remove(name)
        self.removed.append(name)


async def test_what_appears_late_is_removed_too() -> None:
    """An interrupted creation has asked for it before."""
    docker = Leftovers(["c1", "c2"], [], ["late"], networks=["n"], volumes=["v"])
    await Teardown(cast(Docker, docker), {}).run()
    assert docker.removed == ["c1", "c2", "n", "late"] or docker.removed == ["c1", "c2", "late", "n"]


async def test_volumes_go_only_when_they_are_to() -> None:
    """And last: containers hold them."""
    docker = Leftovers(["c"], networks=["n"], volumes=["v"])
    await Teardown(cast(Docker, docker), {}).run(volumes=True)
    assert docker.removed == ["c", "n", "v"]


async def test_what_cannot_be_removed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In docker's own words."""
    monkeypatch.setattr(teardown, "_SECONDS", 0.05)
    monkeypatch.setattr(teardown, "_POLL_SECONDS", 0.001)
    docker = Leftovers(["c"], networks=["n"])
    docker.refuses = "n"
    with pytest.raises(Internal, match="n is busy"):
        await Teardown(cast(Docker, docker), {}).run()
    assert docker.removed == ["c"]
