"""Puts directories, files, modes and owners into volumes: in place where that can be done, else through the backend.

In place takes no time; it needs the backend's storage before our eyes and the right to give files away. Through the
backend, a container that is never started lends its mounts.
"""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISDIR

from services.engines.pods.volumes import Volume
from services.errors import FailedPrecondition

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A volume that the backend has."""

    volume: Volume
    place: Path
    """Where the backend keeps it."""
    new: bool

    @property
    def in_reach(self) -> bool:
        """Whether it can be written in place."""
        try:
            owner = self.place.stat().st_uid
        except OSError:
            return False
        return owner == os.geteuid() and (os.geteuid() == 0 or self.volume.group is None)

    @property
    def is_incomplete(self) -> bool:
        """Whether a file is missing, as far as can be seen: whoever filled it was cut off."""
        return self.in_reach and any(not os.path.lexists(self.place / file.path) for file in self.volume.files)


Lend = Callable[[Sequence[Made], str, str], Awaitable[None]]
"""Fills volumes through a container of this image and name, which is never started."""


class Filler:
    """Fills volumes that are new, or that nobody finished."""

    def __init__(self, lend: Lend) -> None:
        """`lend` fills what is out of reach."""
        self._lend = lend

    async def fill(self, made: Sequence[Made], *, image: str, name: str) -> None:
        """Fill all that are new; `image` and `name` are for the container that may be needed. Raises Refusal."""
        wanted = [each for each in made if (each.new or each.is_incomplete) and not each.volume.in_memory]
        near = [each for each in wanted if each.in_reach]
        far = [each for each in wanted if each not in near]
        if near:
            await asyncio.to_thread(_write_all, near)
        if far:
            await self._lend(far, image, name)


async def make_part(made: Made, part: str) -> Path:
    """Where `part` of a volume lies, made as a directory if it is not there; no link is followed.

    Raises FailedPrecondition when the storage is out of reach, or a link is in the way.
    """
    if made.in_reach:
        try:
            await asyncio.to_thread(_make_part, made.place, PurePosixPath(part), made.volume)
        except OSError as error:
            raise FailedPrecondition(
                f"volume {made.volume.name}: its part {part} is no directory or file that can be mounted: "
                f"{error.strerror}; a link is not followed",
                reason="UNSUPPORTED_FIELD",
            ) from error
    elif all(file.path != part for file in made.volume.files):
        raise FailedPrecondition(
            f"volume {made.volume.name}: subPath {part} needs an engine that runs as root on its backend's own machine",
            reason="UNSUPPORTED_FIELD",
        )
    return made.place / part


def archive(volume: Volume, *, at: str = ".") -> bytes:
    """The volume's contents as a tar archive, its root directory, which is called `at` in it, first."""
    root = PurePosixPath(at)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in (".", *_directories(volume)):
            info = tarfile.TarInfo(str(root / path))
            info.type, info.mode, info.gid = tarfile.DIRTYPE, volume.mode, volume.group or 0
            tar.addfile(info)
        for file in volume.files:
            info = tarfile.TarInfo(str(root / file.path))
            info.size, info.mode, info.gid = len(file.content), file.mode, volume.group or 0
            tar.addfile(info, io.BytesIO(file.content))
    return buffer.getvalue()


def _directories(volume: Volume) -> Iterator[str]:
    """The directories that its files need, outer ones first."""
    needed = {str(parent) for file in volume.files for parent in PurePosixPath(file.path).parents}
    yield from sorted(needed - {"."})


def _write_all(volumes: Sequence[Made]) -> None:
    for each in volumes:
        _write(each.place, each.volume)


def _write(place: Path, volume: Volume) -> None:
    """The same in place: nobody else has the volume yet."""
    for path in (".", *_directories(volume)):
        (place / path).mkdir(exist_ok=True)
        _settle(place / path, volume.mode, volume.group)
    for file in volume.files:
        (place / file.path).unlink(missing_ok=True)
        with os.fdopen(os.open(place / file.path, _NEW_FILE, 0o600), "wb") as out:
            out.write(file.content)
        _settle(place / file.path, file.mode, volume.group)


def _make_part(place: Path, part: PurePosixPath, volume: Volume) -> None:
    """Step by step, each relative to the one before: what containers put there may be links."""
    above = os.open(place, _DIRECTORY)
    try:
        for number, step in enumerate(part.parts, 1):
            made = False
            try:
                os.mkdir(step, volume.mode & 0o777, dir_fd=above)
                made = True
            except FileExistsError:
                mode = os.stat(step, dir_fd=above, follow_symlinks=False).st_mode
                if number == len(part.parts) and _is_file(mode):
                    return
            below = os.open(step, _DIRECTORY, dir_fd=above)
            os.close(above)
            above = below
            if made:
                _settle(above, volume.mode, volume.group)
    finally:
        os.close(above)


def _is_file(mode: int) -> bool:
    return not S_ISDIR(mode) and (mode & 0o170000) == 0o100000


def _settle(where: Path | int, mode: int, group: int | None) -> None:
    """Owner first: giving a file away clears some modes."""
    if group is not None:
        os.chown(where, -1, group)
    os.chmod(where, mode)  # noqa: PTH101 - it may be a descriptor
