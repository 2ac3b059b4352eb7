"""Whether a real docker can be used: what answers at its socket may be something else, or unable to run anything."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from services.engines.engine import HealthState
from tests.harness.docker import DockerMachine
from tests.harness.podman import PodmanMachine, skip_without_podman
from tests.integration.docker.impostor import podman_like

pytestmark = [pytest.mark.docker, pytest.mark.timeout(90)]


async def test_a_socket_of_podmans_is_not_docker(docker: DockerMachine, node_id: str) -> None:
    """What answers as podman would is an impostor; health says so, and leaves no canary or image behind."""
    async with podman_like() as socket, docker.engine(node_id, socket=socket) as engine:
        health = await engine.probe()
        assert (health.state, health.reason) == (HealthState.UNHEALTHY, "IMPOSTOR_BACKEND")
    before, images = docker.objects(), docker.images()
    async with docker.engine(node_id) as engine:
        assert (await engine.probe()).state is HealthState.HEALTHY
        assert engine.info.backend_version
    assert (docker.objects(), docker.images()) == (before, images)


@pytest.mark.podman
async def test_podmans_own_socket_is_not_docker(node_id: str, docker: DockerMachine) -> None:
    """The real one, which speaks docker's language well enough to run Compose."""
    with ExitStack() as stack:
        with skip_without_podman():
            podman = stack.enter_context(PodmanMachine())
        async with podman.service() as service:
            await service.wait_for_socket()
            async with docker.engine(node_id, socket=service.socket) as engine:
                health = await engine.probe()
    assert (health.state, health.reason) == (HealthState.UNHEALTHY, "IMPOSTOR_BACKEND")
    assert "podman" in health.message


async def test_a_docker_that_cannot_run_anything_is_sick(node_id: str) -> None:
    """It answers a ping and tells of itself; the canary knows better, and its error is docker's own."""
    broken = {"runtimes": {"broken": {"path": "/bin/false"}}, "default-runtime": "broken"}
    with DockerMachine(broken) as machine:
        async with machine.engine(node_id) as engine:
            health = await engine.probe()
        assert (health.state, health.reason) == (HealthState.UNHEALTHY, "CANARY_FAILED")
        assert "/bin/false" in health.message or "OCI runtime" in health.message
        assert not [name for name in machine.objects() if name.startswith("container")]
