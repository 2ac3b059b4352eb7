"""Starts services as forks of one warm interpreter: real processes with their real `main`, in milliseconds.

One JSON order a line on stdin is answered by a process id on stdout. All of them end with this process.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = {
    "registry": "services.registry.__main__",
    "provider": "services.provider.__main__",
    "orchestrator": "services.orchestrator.__main__",
    "engine": "tests.crash.twin",
}
_PR_SET_PDEATHSIG = 1


class Zygote:
    """The warm interpreter, running between enter and exit."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=REPOSITORY,
            env={key: value for key, value in os.environ.items() if not key.startswith("BEEMESH_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fork(self, program: str, arguments: Sequence[str], *, name: str, breakpoints: Path, log: Path) -> int:
        """Start a program; its process id. `breakpoints`: the directory that says where it stops."""
        order = {
            "program": program,
            "arguments": list(arguments),
            "name": name,
            "breakpoints": str(breakpoints),
            "log": str(log),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def main() -> None:
    """Carry out orders until stdin ends."""
    for module in (*PROGRAMS.values(), "tests.crash.breakpoints"):
        importlib.import_module(module)
    if threading.active_count() != 1:
        raise RuntimeError("a fork would lose threads")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order, parent=os.getppid())
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _become(order: dict[str, Any], *, parent: int) -> NoReturn:
    """Be that service from here on, bound to the zygote's life."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, replaced in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, replaced)
    sys.argv = [order["name"], *order["arguments"]]
    program = importlib.import_module(PROGRAMS[order["program"]])
    breakpoints = importlib.import_module("tests.crash.breakpoints")
    breakpoints.install(order["program"], order["name"], Path(order["breakpoints"]))
    code = 1
    try:
        program.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
