"""Functions on disk: one directory each, whole or not there, found again after any kind of end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.data_dir.files import sync_directory, write_atomically
from services.engines.wasm.function import FunctionSpec
from services.errors import BeemeshError, Internal, ResourceExhausted
from services.identity import Ownership
from services.telemetry import Log

CODE = "code"
WASM = "function.wasm"
LOG = "log"

_FACTS = "function.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of one function beside its code."""

    ownership: Ownership
    spec: FunctionSpec
    component_id: str
    """Of this incarnation."""
    create_time: float
    start_time: float
    stopped: bool = False
    wasm_sha256: str = ""
    """Of a user's module or component."""
    wasm_kind: str = ""
    """module or component; empty for Python."""
    port: int = 0
    """Of the HTTP trigger, kept over restarts; 0: none yet."""

    @property
    def workload_id(self) -> str:
        """Its workload."""
        return self.ownership.workload_id


class FunctionStore:
    """The directories of all functions. Every method blocks: call it from a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> list[Kept]:
        """All that are whole; what was half made or half deleted goes."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = []
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)
                continue
            try:
                found.append(msgspec.json.decode((path / _FACTS).read_bytes(), type=Kept))
            except (OSError, ValueError) as error:
                log.error("function_unreadable", directory=path, why=error)
        return found

    def place(self, workload_id: str) -> Path:
        """Its directory."""
        return self._directory / workload_id

    def is_there(self, workload_id: str) -> bool:
        """Whether it still is."""
        return (self.place(workload_id) / _FACTS).exists()

    def stage(self, workload_id: str) -> Path:
        """A new directory to put code into; `commit` makes it the function's."""
        staged = self._directory / f".new-{workload_id}"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(mode=0o700, parents=True)
        return staged

    def commit(self, staged: Path, kept: Kept) -> None:
        """Make it whole and durable; raises ResourceExhausted(DISK_FULL), Internal."""
        with disk(staged):
            write_atomically(staged / _FACTS, msgspec.json.encode(kept))
            _sync(staged)
            staged.replace(self.place(kept.workload_id))
            sync_directory(self._directory)

    def write(self, kept: Kept) -> None:
        """Change what is kept of one that is there; raises like `commit`."""
        path = self.place(kept.workload_id) / _FACTS
        with disk(path):
            write_atomically(path, msgspec.json.encode(kept))

    def delete(self, workload_id: str) -> None:
        """Delete all of it; a repeat is harmless. Raises Internal."""
        place, dying = self.place(workload_id), self._directory / f".old-{workload_id}"
        with disk(place):
            shutil.rmtree(dying, ignore_errors=True)
            if place.exists():
                place.replace(dying)
                sync_directory(self._directory)
            shutil.rmtree(dying, ignore_errors=True)
            shutil.rmtree(self._directory / f".new-{workload_id}", ignore_errors=True)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """What the disk refuses, as the contract's errors."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> BeemeshError:
    """The disk said no."""
    if error.errno in _NO_ROOM:
        return ResourceExhausted(f"no room on disk for {path}", reason="DISK_FULL", metadata={"path": str(path)})
    return Internal(f"{path} cannot be written: {error}", reason="BACKEND_ERROR", metadata={"path": str(path)})


def _sync(directory: Path) -> None:
    """Everything below it is on disk on return."""
    for root, _, files in os.walk(directory):
        for name in files:
            descriptor = os.open(Path(root, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(root))
