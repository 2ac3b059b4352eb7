"""What the engine's questions leave open at docker's socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.engines.docker_api.sdk import Sdk
from tests.harness.docker import DockerMachine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(90)]


async def test_questions_leave_one_connection_a_thread(docker: DockerMachine) -> None:
    """A hundred different questions at once leave no more open than there are threads that ask."""
    before = sockets()
    sdk = Sdk(docker.socket, backend="docker")
    await sdk.open()
    try:
        questions = ({"label": [f"number={number}"]} for number in range(100))
        await asyncio.gather(*(sdk.ask(lambda client, f=f: client.containers(filters=f)) for f in questions))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        assert 0 < sockets() - before <= 8
    finally:
        await sdk.close()


def sockets() -> int:
    """Sockets that this process has open."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        try:
            found += str(path.readlink()).startswith("socket:")
        except OSError:  # that of the listing itself
            continue
    return found
