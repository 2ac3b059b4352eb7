"""What a container wrote last is told, however soon it is removed after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.engines.engine import Component, LogQuery
from services.engines.podman.http import Refusal
from services.engines.podman.logs import Logs


def record(text: str) -> str:
    """As podman's monitor writes it."""
    return f"2026-01-02T03:04:05.000000001+00:00 stdout F {text}\n"


class Leaving:
    """A podman whose container writes once more, and is removed, just before it is asked for."""

    def __init__(self, path: Path, *, answers: int) -> None:
        self.path = path
        self.answers = answers
        path.write_text(record("up"))

    @property
    def found(self) -> dict[str, Any]:
        """An inspection; nobody knows the monitor."""
        config = {"Type": "k8s-file", "Path": str(self.path)}
        return {"HostConfig": {"LogConfig": config}, "State": {"Status": "running", "ConmonPid": 0}}

    async def inspect(self, container: str) -> dict[str, Any]:
        """So many times, then it is gone."""
        self.answers -= 1
        if self.answers >= 0:
            return self.found
        with self.path.open("a") as log:
            log.write(record("saved"))
        raise Refusal(404, "no such container")


@pytest.mark.parametrize("answers", [0, 1, 2])
async def test_the_last_line_of_a_container_that_is_removed_is_told(tmp_path: Path, answers: int) -> None:
    """A follower that hears of the removal first still reads what was written before it."""
    podman = Leaving(tmp_path / "ctr.log", answers=answers)
    reader = Logs(
        podman=podman,  # type: ignore[arg-type]  # it has what is called
        components=[Component(component_id="c" * 64, display_name="main")],
        query=LogQuery(follow=True),
        clock=lambda: 0.0,
        inspected={"c" * 64: podman.found},
    )
    assert [line.text async for batch in reader.batches() for line in batch] == ["up", "saved"]
