"""A throw-away user of this machine and, as that user, a podman of its own with an engine on it.

Run as root: `python -m tests.harness.unprivileged USER` becomes that user's engine. All that it imports is imported
before, since neither this repository nor this Python need be open to that user.
"""

from __future__ import annotations

import importlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.make_test_image import import_image

PROGRAMS = ("podman", "newuidmap", "newgidmap", "slirp4netns", "useradd", "unshare", "runuser", "python3")
_TUN = Path("/dev/net/tun")
_PYTHONS = "/usr/bin:/usr/local/bin"
_LATE = ("services.engines.podman.__main__", "podman", "podman.errors", "requests", "encodings.idna", "h11")
"""What the engine imports only when it needs it, and what that imports."""
_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody with subordinate ids and a runtime directory."""

    name: str
    uid: int
    home: Path
    runtime: Path
    """Below /run, as podman wants it for networks; the engine's sockets and data are in it too."""

    @property
    def env(self) -> dict[str, str]:
        """What a login would set."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "CONTAINERS_CONF": str(self.runtime / "containers.conf"),
        }

    def command(self, *words: str) -> list[str]:
        """A command of this user's."""
        env = [f"{name}={value}" for name, value in self.env.items()]
        return ["runuser", "-u", self.name, "--", "env", "--chdir=/", "-i", *env, *words]

    def processes(self) -> Iterator[int]:
        """All that run as this user."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if entry.stat().st_uid == self.uid:
                    yield int(entry.name)


def lacking() -> list[str]:
    """The programs that are not here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def throwaway_user(containers_conf: str) -> Iterator[User]:
    """Made with the test image in its podman, and deleted with all that it has, processes too."""
    name = f"bm{secrets.token_hex(4)}"
    _run("useradd", "--create-home", "--shell", "/bin/sh", name)
    entry = pwd.getpwnam(name)
    user = User(name=name, uid=entry.pw_uid, home=Path(entry.pw_dir), runtime=Path(f"/run/{name}"))
    try:
        user.runtime.mkdir(mode=0o700)
        (user.runtime / "containers.conf").write_text(containers_conf)
        for path in (user.runtime, user.runtime / "containers.conf"):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        import_image(podman=in_own_mounts(user.command("podman"), user.runtime / "tun"))
        yield user
    finally:
        for pid in (*user.processes(), *user.processes()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _run(*user.command("podman", "system", "migrate"), check=False)
        _run(*user.command("podman", "unshare", "rm", "-rf", f"{user.home}/.local/share/containers"), check=False)
        for pid in user.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _run("userdel", "--force", "--remove", name, check=False)
        shutil.rmtree(user.runtime, ignore_errors=True)


def in_own_mounts(command: Sequence[str], tun: Path) -> list[str]:
    """The command with a /dev/net/tun that everybody may open, as udev makes it; this machine's is left as it is."""
    script = '[ -c "$0" ] || mknod -m 666 "$0" c 10 200; mount --bind "$0" /dev/net/tun; exec "$@"'
    if stat.S_IMODE(_TUN.stat().st_mode) & 0o006 == 0o006:
        return list(command)
    return [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        str(tun),
        *command,
    ]


def engine_command(user: User) -> list[str]:
    """What starts the engine of this user; the rest of its settings is in BEEMESH_ variables."""
    return in_own_mounts([sys.executable, "-m", "tests.harness.unprivileged", user.name], user.runtime / "tun")


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _become(name: str) -> None:
    """Import what is needed, then give up root's rights for good."""
    for module in _LATE:
        importlib.import_module(module)
    from services import bound

    entry = pwd.getpwnam(name)
    script = Path(os.environ["XDG_RUNTIME_DIR"]) / "bound.py"
    shutil.copy(bound.__file__, script)
    script.chmod(0o644)
    bound.__file__ = str(script)
    sys.executable = shutil.which("python3", path=_PYTHONS) or sys.executable
    os.initgroups(name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    _become(sys.argv.pop(1))
    importlib.import_module("services.engines.podman.__main__").main()
