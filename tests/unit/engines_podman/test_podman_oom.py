"""What the kernel's log says of a container's end; the records are as Linux 6.1 writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.engines.podman.observe import unexplained
from services.engines.podman.oom import Life, killed, killed_here

ID = "5220dee6" * 8
LIFE = Life(container=ID, start_time=1000.0, finish_time=1010.0)
BOOT = 900.0


def record(at: float, container: str = ID) -> str:
    """The kernel's line, so many seconds after its start."""
    return (
        f"6,2101,{int(at * 1e6)},-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=libpod-{container},"
        f"mems_allowed=0,oom_memcg=/libpod_parent/p/libpod-{container},task_memcg=/libpod_parent/p/libpod-{container},"
        "task=sh,pid=20371,uid=0"
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (record(105.0), True),
        (record(114.0), True),
        (record(50.0), False),
        (record(200.0), False),
        (record(105.0, "ab" * 32), False),
        (record(105.0).replace("oom-kill:", "said:"), False),
        ("", False),
    ],
)
def test_only_the_containers_own_line_within_its_life_counts(line: str, told: bool) -> None:
    """A line of another container, of another life of this one, or of something else says nothing."""
    assert killed(LIFE, iter(["4,1,5,-;something else", line]), boot_time=BOOT) is told


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    """Where the kernel's log is not to be had, nobody is accused."""
    assert killed_here(LIFE, log=tmp_path / "none") is False


@pytest.mark.parametrize(
    ("state", "memory", "asks"),
    [
        ({}, 1 << 26, True),
        ({}, 0, False),
        ({"ExitCode": 1}, 1 << 26, False),
        ({"OOMKilled": True}, 1 << 26, False),
        ({"Running": True}, 1 << 26, False),
        ({"FinishedAt": "0001-01-01T00:00:00Z"}, 1 << 26, False),
    ],
)
def test_the_log_is_asked_only_about_unexplained_ends(state: dict[str, Any], memory: int, asks: bool) -> None:
    """The log is asked about a container with a limit that ended with 137, where podman does not say why."""
    ended = {"ExitCode": 137, "StartedAt": "2026-01-02T03:04:05Z", "FinishedAt": "2026-01-02T03:04:06Z", **state}
    assert (unexplained(ID, {"State": ended, "HostConfig": {"Memory": memory}}) is not None) is asks
