"""Keeps the log file before a container's newest: gives both a second name, as the monitor takes away the only one.

At the size limit podman's monitor renames a new file over the full one, which is gone with its last reader: with this
engine, if that is what ends. A second name is `ctr.log.NUMBER.MONITOR.BEFORE`: a number, the monitor's process, and how
many bytes it had written before this file. Files with consecutive numbers follow each other for certain; where one may
have been missed a number is left out. podman removes all of them with the container's directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

FILES = 3
"""There are at most so many files of a log: two that have second names, and one that was not noticed yet."""
DEFAULT_BYTES = 30 << 20
"""Of one container's log, in all."""
LEAST_BYTES = 300 << 10

_NAMED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file of the log under its second name."""

    path: Path
    number: int
    monitor: int
    before: int
    """Bytes that the monitor had written before; less than 0 when an earlier monitor began the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A file of the log that is being read."""

    file: FileIO
    number: int


class Shelf:
    """Keeps the logs of all containers; a file that was noticed already costs one `stat`."""

    def __init__(self) -> None:
        self._noticed: dict[Path, tuple[int, int]] = {}
        """Inode and monitor, by log."""

    def look(self, monitors: Mapping[Path, int]) -> None:
        """Notice the newest files of these logs, each with the process that writes it; others are forgotten."""
        noticed: dict[Path, tuple[int, int]] = {}
        for path, monitor in monitors.items():
            with suppress(OSError):
                noticed[path] = (path.stat().st_ino, monitor)
                if self._noticed.get(path) != noticed[path]:
                    keep(path, monitor)
        self._noticed = noticed


def keep(path: Path, monitor: int) -> None:
    """Notice the file that now is at `path`; who cannot, because it is gone or not ours, does nothing."""
    with suppress(OSError):
        kept = _kept(path)
        newest = kept[-1] if kept else None
        size = path.stat().st_size
        before = (_written(monitor) or 0) - size
        if newest is None:
            number = 1
        elif os.path.samestat(path.stat(), newest.path.stat()):
            if newest.monitor != monitor and monitor:
                newest.path.rename(_name(path, newest.number, monitor, before))
            return
        else:
            number = newest.number + (1 if _follows(newest, monitor, before) else 2)
        _name(path, number, monitor, before).hardlink_to(path)
        for old in kept[: 1 - _NAMED]:
            old.path.unlink(missing_ok=True)


def opened(path: Path) -> list[Opened]:
    """All files of a log, oldest first; raises OSError when there is none at `path`."""
    newest = FileIO(str(path))
    found: list[Opened] = []
    for kept in _kept(path):
        with suppress(OSError):
            found.append(Opened(file=FileIO(str(kept.path)), number=kept.number))
    if found and os.path.sameopenfile(found[-1].file.fileno(), newest.fileno()):
        newest.close()
    else:
        found.append(Opened(file=newest, number=found[-1].number + 2 if found else 1))
    return found


def _kept(path: Path) -> Sequence[Kept]:
    """By number."""
    found = []
    for entry in os.scandir(path.parent):
        words = entry.name.removeprefix(f"{path.name}.").split(".")
        if entry.name.startswith(f"{path.name}.") and len(words) == 3:
            with suppress(ValueError):
                number, monitor, before = map(int, words)
                found.append(Kept(path=Path(entry.path), number=number, monitor=monitor, before=before))
    return sorted(found, key=lambda kept: kept.number)


def _name(path: Path, number: int, monitor: int, before: int) -> Path:
    return path.with_name(f"{path.name}.{number}.{monitor}.{before}")


def _follows(full: Kept, monitor: int, before: int) -> bool:
    """Whether the same monitor has written nothing between the two that would fill half a file."""
    size = full.path.stat().st_size
    return monitor > 0 and full.monitor == monitor and abs(before - full.before - size) < size / 2


def _written(pid: int) -> int | None:
    """Bytes that a process has written so far, to files and pipes; None when that cannot be known."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                return int(line.partition(":")[2])
    return None
