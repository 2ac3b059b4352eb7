"""What commands leave beside a container does not hold up its removal."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.engines.engine import ExecOrder, ExitStatus
from services.engines.podman.engine import PodmanEngine
from tests.harness.podman import PodmanMachine
from tests.integration.podman.workloads import FOREVER, container, destroy, engine_on, only, spec

pytestmark = [pytest.mark.podman, pytest.mark.timeout(60)]

STALL = 3.2
"""Seconds that podman waits in vain for a cgroup to be empty."""


def conmons(container_id: str) -> int:
    """How many processes podman keeps for a container and its commands."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found += words[0].endswith(b"conmon") and container_id.encode() in words
    return found


async def run(engine: PodmanEngine, workload: str) -> None:
    """A command in its container, to its end."""
    async with engine.exec(workload, ExecOrder(component_id="", command=("true",), tty=False)) as session:
        assert [piece async for piece in session.output()] == [ExitStatus(exit_code=0)]


async def test_a_removal_does_not_wait_for_what_commands_left(machine: PodmanMachine, node_id: str) -> None:
    """A container in which commands were just run is gone as quickly as any other, and all that was beside it."""
    wanted = spec(node_id, container(FOREVER))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        name = only(await engine.observe_one(wanted.workload_id)).component_id
        for _ in range(2):
            await run(engine, wanted.workload_id)
        assert conmons(name) > 1, "commands leave processes behind, else there is nothing to show"
        assert await destroy(engine, wanted.workload_id) < STALL
        assert conmons(name) == 0
