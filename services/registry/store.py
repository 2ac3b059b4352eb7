"""The operator's choices on disk: a small JSON file, replaced whole: a crash leaves the old one or the new one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from services.errors import DataLoss, Unavailable
from services.registry.directory import Choices


class ChoicesFile:
    """Reads and replaces the file; its directory is made (0700) when it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Choices:
        """What was saved last, or no choices; raises DataLoss (CHOICES_UNREADABLE) rather than forget a cordon."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Choices)
        except FileNotFoundError:
            return Choices()
        except (OSError, msgspec.DecodeError) as error:
            raise DataLoss(
                f"{self._path} holds the default engine and the cordons and cannot be read: {error}; mend it, "
                "or remove it to start without them",
                reason="CHOICES_UNREADABLE",
            ) from error

    def save(self, choices: Choices) -> None:
        """Durably replace the file; raises Unavailable (CHOICES_NOT_SAVED), and then the old one still stands."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._replace(msgspec.json.format(msgspec.json.encode(choices)) + b"\n")
        except OSError as error:
            raise Unavailable(
                f"cannot save the choice to {self._path}: {error.strerror}; nothing was changed",
                reason="CHOICES_NOT_SAVED",
                metadata={"path": str(self._path)},
            ) from error

    def _replace(self, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=f".{self._path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self._path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
