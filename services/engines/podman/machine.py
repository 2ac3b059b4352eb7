"""What the machine forces on podman: old cgroups and tight limits need a containers.conf of their own."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

_CAP_SYS_RESOURCE = 24
_PODMAN_WANTS_FILES = 1_048_576
_ADMIN_CONFIG = Path("/etc/containers/containers.conf")
_EXEC_DELAY_SECONDS = 5
_LIMIT = 4096
"""Descriptors and processes of a container where podman's own limits cannot be set; raised to what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts that decide."""

    cgroup_v2: bool
    """The unified hierarchy alone; v1 and hybrids are not."""
    may_raise_limits: bool
    """Whether a process may set limits above its own: podman gives containers 1,048,576 descriptors."""
    has_runc: bool
    has_admin_config: bool
    """Somebody wrote /etc/containers/containers.conf: CONTAINERS_CONF would replace it, so it is left alone."""


def needed_config(machine: Machine) -> str:
    """The containers.conf without which no container would start on this machine; empty where podman's own will do.

    On hybrid cgroups crun, Debian's default, refuses to run (`cgroups in hybrid mode not supported`); runc runs. Where
    the hard limit is low and cannot be raised, every start fails with `setrlimit RLIMIT_NOFILE`.
    """
    if machine.has_admin_config:
        return ""
    parts: list[str] = []
    if not machine.may_raise_limits:
        parts.append(f'[containers]\ndefault_ulimits = ["nofile={_LIMIT}:{_LIMIT}", "nproc={_LIMIT}:{_LIMIT}"]\n')
    if not machine.cgroup_v2 and machine.has_runc:
        parts.append('[engine]\nruntime = "runc"\n')
    return "\n".join(parts)


def own_ulimits(machine: Machine) -> dict[str, int]:
    """What a container that sets a limit of its own must get for the others: podman then forgets its defaults."""
    return {} if machine.may_raise_limits else {"nofile": _LIMIT, "nproc": _LIMIT}


def with_exec_delay(config: str) -> str:
    """The containers.conf, with finished commands cleaned up after in seconds, unless it says when itself.

    By default each command in a container leaves two processes for five minutes, and a probe runs one every few
    seconds. Somebody must have asked for the exit code before.
    """
    if "exit_command_delay" in config:
        return config
    line = f"exit_command_delay = {_EXEC_DELAY_SECONDS}\n"
    head, table, rest = config.partition("[engine]\n")
    return f"{head}{table}{line}{rest}" if table else f"{config}\n[engine]\n{line}"


def this_machine(*, has_runc: bool) -> Machine:
    """Look."""
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return Machine(
        cgroup_v2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        may_raise_limits=hard_limit >= _PODMAN_WANTS_FILES or hard_limit < 0 or _has_capability(_CAP_SYS_RESOURCE),
        has_runc=has_runc,
        has_admin_config=_ADMIN_CONFIG.exists(),
    )


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
