"""Runs a program that cannot outlive this process, be that killed by -9: the kernel kills it then.

As a script, `bound.py PARENT_PID PROGRAM ARGUMENT…`, it binds itself to its parent and becomes the program; the binding
stays over exec. Doing this in the new process, rather than between fork and exec of the parent, keeps Python code out
of a forked multi-threaded process; `-I -S` make the detour cost milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def bound(program: str, *arguments: str) -> tuple[str, ...]:
    """The command line for `program`, a path, bound to this process."""
    return (sys.executable, "-I", "-S", __file__, str(os.getpid()), program, *arguments)


def main(parent: int, command: list[str]) -> None:
    """Bind to `parent`, then exec."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the binding was there
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command is the parent's own


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
