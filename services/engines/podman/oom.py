"""Asks the kernel's log whether it ended a container for want of memory.

Podman 4.3 on cgroup v1 does not tell, and the container's cgroup, which counted it, is gone with the container. The
kernel's own line names the container: it is the truth for as long as the log keeps it, and for whoever may read it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KERNEL_LOG = Path("/dev/kmsg")
_MAX_RECORD = 8192
_MAX_RECORDS = 100_000
_KILLED = re.compile(r"^\d+,\d+,(\d+),[^;]*;oom-kill:.*task_memcg=\S*libpod-([0-9a-f]{64})")
_SLACK_SECONDS = 5.0
"""Between the kernel's clock and podman's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One run of a container; seconds since 1970."""

    container: str
    start_time: float
    finish_time: float


def killed(life: Life, records: Iterator[str], *, boot_time: float) -> bool:
    """Whether one of the kernel's records says so; `boot_time` is when its clock was 0. Pure."""
    for record in records:
        match = _KILLED.match(record)
        if match and match[2] == life.container:
            at = boot_time + int(match[1]) / 1e6
            if life.start_time - _SLACK_SECONDS <= at <= life.finish_time + _SLACK_SECONDS:
                return True
    return False


def killed_here(life: Life, *, log: Path = KERNEL_LOG) -> bool:
    """The same of this machine's log; False where it cannot be read. Takes milliseconds: call it in a thread."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return killed(life, _records(descriptor), boot_time=time.time() - time.monotonic())
    finally:
        os.close(descriptor)


def _records(descriptor: int) -> Iterator[str]:
    """All records there are; one that is overwritten while it is read is passed over."""
    for _ in range(_MAX_RECORDS):
        try:
            record = os.read(descriptor, _MAX_RECORD)
        except BrokenPipeError:
            continue
        except OSError:  # there are no more
            return
        if not record:
            return
        yield record.decode(errors="replace")
