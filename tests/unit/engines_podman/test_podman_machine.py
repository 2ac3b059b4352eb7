"""What a machine needs of podman's configuration, and podman's versions."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from services.engines.podman import version
from services.engines.podman.machine import Machine, needed_config, with_exec_delay


def machine(**facts: bool) -> Machine:
    """An ordinary machine of today, but for these facts."""
    ordinary = {"cgroup_v2": True, "may_raise_limits": True, "has_runc": True, "has_admin_config": False}
    return Machine(**{**ordinary, **facts})


def test_an_ordinary_machine_needs_nothing() -> None:
    """With cgroup v2 and limits that may be raised podman's own configuration is left alone."""
    assert needed_config(machine()) == ""


@pytest.mark.parametrize(
    ("facts", "config"),
    [
        ({"cgroup_v2": False}, {"engine": {"runtime": "runc"}}),
        ({"cgroup_v2": False, "has_runc": False}, {}),
        (
            {"may_raise_limits": False},
            {"containers": {"default_ulimits": ["nofile=4096:4096", "nproc=4096:4096"]}},
        ),
        ({"cgroup_v2": False, "may_raise_limits": False, "has_admin_config": True}, {}),
    ],
)
def test_only_what_is_needed_is_written(facts: dict[str, bool], config: dict[str, Any]) -> None:
    """Each obstacle brings its own remedy, and an administrator's configuration is never replaced."""
    assert tomllib.loads(needed_config(machine(**facts))) == config


@pytest.mark.parametrize(
    "config", ["", "[containers]\npids_limit = 5\n", '[engine]\nruntime = "runc"\n[network]\nnetwork_backend = "cni"\n']
)
def test_finished_commands_are_cleaned_up_after_soon(config: str) -> None:
    """The delay is added to what there is, and everything else is as it was."""
    made = tomllib.loads(with_exec_delay(config))
    assert made["engine"].pop("exit_command_delay") == 5
    assert {name: table for name, table in made.items() if table} == tomllib.loads(config)


def test_a_delay_that_somebody_chose_stays() -> None:
    """A configuration that says when to clean up is left alone."""
    chosen = "[engine]\nexit_command_delay = 60\n"
    assert with_exec_delay(chosen) == chosen


def test_the_shipped_configuration_has_every_remedy() -> None:
    """deploy/containers.conf says all that the most difficult machine needs."""
    needed = tomllib.loads(needed_config(machine(cgroup_v2=False, may_raise_limits=False)))
    shipped = tomllib.loads(Path("deploy/containers.conf").read_text())
    assert all(shipped[table].items() >= entries.items() for table, entries in needed.items())


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("4.3.1", (4, 3, 1)), ("5.0.0-rc1", (5, 0, 0)), ("v4.9", (4, 9)), ("6.0.0-dev", (6, 0, 0)), ("what", ())],
)
def test_versions_are_numbers(text: str, numbers: tuple[int, ...]) -> None:
    """Versions compare as numbers; what is no version is older than all."""
    assert version.parse(text) == numbers
    assert version.parse("what") < version.OLDEST <= (4, 0, 0)
