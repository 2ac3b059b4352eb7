"""The conmons of containers: podman keeps one beside each container, and two more beside each command run in it.

Those of a command stay for seconds after it, for whoever still asks for its exit code. While one is there podman cannot
remove the pod's cgroup, and a removal stalls for more than three seconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_WAIT_SECONDS = 3.0
_POLL_SECONDS = 0.02
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conmon:
    """The one of a container."""

    container: str
    pid: int
    cgroup: Path | None
    """Names the processes of its cgroup, those of commands among them; None: it is not to be seen from here."""


def conmon(container: str, pid: int) -> Conmon:
    """With its cgroup, as long as it runs."""
    return Conmon(container=container, pid=pid, cgroup=_members(pid))


async def gone(conmons: Collection[Conmon]) -> None:
    """End those of finished commands, then wait until all have ended; not for what another pid namespace hides.

    The containers have ended, and all commands with them.
    """
    containers = {one.container for one in conmons}
    commands = {pid for one in conmons for pid in _of_commands(one.cgroup, containers)}
    for pid in commands:
        _kill(pid, containers)
    pids = {one.pid for one in conmons} | commands
    loop = asyncio.get_running_loop()
    end = loop.time() + _WAIT_SECONDS
    while any(_command_line(pid) for pid in pids) and loop.time() < end:  # noqa: ASYNC110 - a process tells nobody
        await asyncio.sleep(_POLL_SECONDS)


def _members(pid: int) -> Path | None:
    """Of a hierarchy with a controller, or of the one unified hierarchy."""
    with suppress(OSError):
        for line in (_PROC / str(pid) / "cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            first = controllers.partition(",")[0]
            if number == "0" or (first and "=" not in first):
                return _CGROUPS / (controllers if number != "0" else "") / path.lstrip("/") / "cgroup.procs"
    return None


def _of_commands(cgroup: Path | None, containers: Collection[str]) -> Iterator[int]:
    with suppress(OSError):
        for word in cgroup.read_text().split() if cgroup else ():
            if _is_of_command(int(word), containers):
                yield int(word)


def _is_of_command(pid: int, containers: Collection[str]) -> bool:
    """Whether it is the conmon of a command in one of these: `conmon … -c CONTAINER -u COMMAND …`."""
    words = _command_line(pid)
    return _said(words, "-c") in containers and _said(words, "-u") not in containers


def _said(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1] if option in words[:-1] else ""


def _command_line(pid: int) -> list[str]:
    """Of a conmon that runs; empty for a zombie, and for what is none."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    return words if Path(words[0]).name == "conmon" else []


def _kill(pid: int, containers: Collection[str]) -> None:
    """Kill exactly this process, though its pid may be another's by now; what is not allowed is left."""
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if _is_of_command(pid, containers):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
