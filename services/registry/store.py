"""The operator's choices on disk: a small JSON file, replaced whole: a crash leaves the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.data_dir import faults
from services.data_dir.files import write_atomically
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
        """Durably replace the file; if it fails the old one still stands.

        Raises ResourceExhausted(DISK_FULL), FailedPrecondition(DATA_DIR_READ_ONLY), Unavailable(CHOICES_NOT_SAVED).
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, msgspec.json.format(msgspec.json.encode(choices)) + b"\n")
        except OSError as error:
            raise faults.of_file(error, self._path) or Unavailable(
                f"cannot save the choice to {self._path}: {error.strerror}; nothing was changed",
                reason="CHOICES_NOT_SAVED",
                metadata={"path": str(self._path)},
            ) from error
