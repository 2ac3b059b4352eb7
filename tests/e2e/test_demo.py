"""The demo is what a newcomer sees first: it must hold, and say what is missing where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from scripts import podman_state
from scripts.local_node import REPOSITORY


def demo(engines: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    command = [sys.executable, "-m", "scripts.demo", "--engines", engines]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, cwd=REPOSITORY, env=env or os.environ
    )


def test_the_demo_holds_without_an_engine_that_runs_anything() -> None:
    """On mock, all that the demo claims is so, and it says that it was."""
    done = demo("mock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ACTIVE on mock" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("All of it was as claimed")


@pytest.mark.podman
@pytest.mark.usefixtures("podman_image")
def test_the_demo_holds_on_podman() -> None:
    """On podman a container runs, podman agrees, and afterwards podman has what it had before."""
    before = podman_state.snapshot()
    done = demo("podman")
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("ACTIVE on podman", "| hello from hello, line", "runtime_engine  podman", "nothing is left"):
        assert part in done.stdout
    assert podman_state.left_behind(before, node_id="") == []


def test_the_demo_says_how_to_get_podman(tmp_path: object) -> None:
    """On a machine without podman the demo ends with 3 and says what to install, without a stack trace."""
    done = demo("podman", env={**os.environ, "PATH": f"{tmp_path}"})
    assert done.returncode == 3
    assert "apt-get install" in done.stderr
    assert "Traceback" not in done.stderr
