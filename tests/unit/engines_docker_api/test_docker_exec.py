"""A command that is left is ended, also one that docker has just begun."""

from __future__ import annotations

from typing import Any, cast

from services.engines.docker_api.api import Docker
from services.engines.docker_api.exec import Killing


class Beginning:
    """A docker that says of a command what it is told to, one answer after the other."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = list(answers)
        self.looked_for: list[str] = []

    async def inspect_exec(self, session: str) -> dict[str, Any]:
        """The next answer, the last one again and again."""
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def processes(self, container: str) -> list[int]:
        """None are left."""
        self.looked_for.append(container)
        return []


async def test_a_command_without_a_pid_yet_is_waited_for() -> None:
    """Docker says that it runs a moment before it knows its process; giving up then would leave it behind."""
    docker = Beginning(
        {"Running": False, "Pid": 0, "ExitCode": None},
        {"Running": True, "Pid": 0, "ExitCode": None},
        {"Running": True, "Pid": 4242, "ExitCode": None},
    )
    await Killing(cast(Docker, docker), "c" * 64, "session").run()
    assert docker.looked_for == ["c" * 64]


async def test_a_command_that_has_ended_is_left_alone() -> None:
    """Its pid may be another's by now."""
    docker = Beginning({"Running": False, "Pid": 4242, "ExitCode": 0})
    await Killing(cast(Docker, docker), "c" * 64, "session").run()
    assert docker.looked_for == []
