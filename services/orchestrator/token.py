"""The token file that guards the public port against other users of this machine."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from services.errors import FailedPrecondition


def load(path: Path) -> str:
    """The token; without a file a new one is made, mode 0600. Raises FailedPrecondition when others can read it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return _make(path)
    with os.fdopen(handle) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise FailedPrecondition(
                f"token file {path} has mode {mode:04o}: others can read it; chmod 600 and replace the token",
                reason="TOKEN_FILE_EXPOSED",
            )
        token = file.read().strip()
    if len(token) < 16:
        raise FailedPrecondition(f"token file {path}: expected at least 16 characters", reason="TOKEN_TOO_SHORT")
    return token


def _make(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    return token
