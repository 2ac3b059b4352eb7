"""Becomes the program it is given, bound to die with the process that started it, be that killed by -9.

Run as a script by path, with `-I -S`: `bound.py PARENT_PID PROGRAM ARGUMENT…`. The kernel keeps the binding over exec.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Bind to `parent`, then exec."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the binding was there
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command is the engine's own


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
