"""What tests of Pods need of a backend, whichever it is."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from services.engines.docker.pods import honours as docker
from services.engines.engine import Engine
from services.engines.podman import honours as podman
from services.engines.pods.policy import Honours
from tests.harness.docker import DockerMachine
from tests.harness.podman import PodmanMachine


def root_has_all_capabilities() -> bool:
    """Of those that the kernel knows."""
    bounds = re.search(r"CapBnd:\s*([0-9a-f]+)", Path("/proc/self/status").read_text())
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return bounds is not None and int(bounds[1], 16) == (1 << last + 1) - 1


class PodMachine(Protocol):
    """One backend."""

    honours: Honours
    has_privileged: bool
    """Whether it can run privileged containers on this machine."""

    def engine(self, node_id: str) -> AbstractAsyncContextManager[Engine]:
        """An engine on it."""

    def objects(self) -> set[str]:
        """All there is, images left out."""

    def inside(self, container: str, command: str) -> str:
        """What a shell command prints in a container; what went wrong where it cannot be run."""


class PodmanPodMachine:
    """Podman."""

    honours = podman.HONOURS
    has_privileged = True

    def __init__(self, machine: PodmanMachine) -> None:
        self._machine = machine

    def engine(self, node_id: str) -> AbstractAsyncContextManager[Engine]:
        return self._machine.engine(node_id)

    def objects(self) -> set[str]:
        return self._machine.objects()

    def inside(self, container: str, command: str) -> str:
        try:
            return self._machine.podman("exec", container, "sh", "-c", command)
        except RuntimeError as error:
            return str(error)


class DockerPodMachine:
    """Docker."""

    honours = docker.HONOURS
    has_privileged = root_has_all_capabilities()

    def __init__(self, machine: DockerMachine) -> None:
        self._machine = machine

    def engine(self, node_id: str) -> AbstractAsyncContextManager[Engine]:
        return self._machine.engine(node_id)

    def objects(self) -> set[str]:
        return self._machine.objects()

    def inside(self, container: str, command: str) -> str:
        return self._machine.inside(container, command)
