"""Under which conditions something was measured: the machine, what else it was at, and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager


def conditions() -> str:
    """One line."""
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("grpcio", "protobuf", "uvloop"))
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {cores} cores, Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, {packages}{_backends()}; load average at the start {load:.1f}"
    )


def _backends() -> str:
    """The versions of podman and docker, where they are."""
    found = ""
    for name, program in (("podman", "podman"), ("docker", "dockerd")):
        if shutil.which(program) is None:
            continue
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
        version = re.search(r"version ([0-9.]+)", asked.stdout)
        found += f", {name} {version[1]}" if version else ""
    return found


def _halves() -> tuple[set[int], set[int]]:
    """The cores of the served side, and those of the client; the same where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    middle = len(cores) // 2
    return (set(cores[:middle]), set(cores[middle:])) if middle else (set(cores), set(cores))


@contextmanager
def apart() -> Iterator[set[int]]:
    """Within it, this process keeps to the client's cores; what it starts under `on` the ones it gives are its own."""
    before = os.sched_getaffinity(0)
    served, client = _halves()
    os.sched_setaffinity(0, client)
    try:
        yield served
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Within it, new processes are started on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
