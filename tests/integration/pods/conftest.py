"""One backend of each engine that runs Pods; every test of this folder runs on all of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness.docker import DockerMachine, skip_without_docker
from tests.harness.podman import PodmanMachine, skip_without_podman
from tests.integration.pods.machine import DockerPodMachine, PodMachine, PodmanPodMachine


@pytest.fixture(
    scope="session",
    params=[pytest.param("docker", marks=pytest.mark.docker), pytest.param("podman", marks=pytest.mark.podman)],
)
def machine(request: pytest.FixtureRequest) -> Iterator[PodMachine]:
    """A backend of this run's own, with the test image."""
    with ExitStack() as stack:
        if request.param == "docker":
            with skip_without_docker():
                docker = stack.enter_context(DockerMachine())
            yield DockerPodMachine(docker)
        else:
            with skip_without_podman():
                podman = stack.enter_context(PodmanMachine())
            yield PodmanPodMachine(podman)


@pytest.fixture
def node_id() -> str:
    """The id of a node that no other test has."""
    return secrets.token_hex(20)
