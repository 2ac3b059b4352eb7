"""The engine's durable records: one file per workload, replaced atomically, read back after a restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from services.data_dir import faults
from services.data_dir.files import sync_directory, write_atomically
from services.engines.engine import Config, Observation, Role
from services.errors import BeemeshError, DataLoss, FailedPrecondition, Internal, Unavailable
from services.identity import Ownership, hash_label
from services.manifests import Format
from services.telemetry import Log

_SUFFIX = ".json"
_WRITERS = 4

log = Log(__name__)


class Phase(StrEnum):
    """How far a workload's last operation got; written before the backend is touched."""

    DEPLOYING = "DEPLOYING"
    DEPLOYED = "DEPLOYED"
    UPDATING = "UPDATING"
    """Being brought to this content in place; what runs is between the one before and this."""
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    """On request; it stays so until it is started on request."""
    STARTING = "STARTING"
    """To be started, after a stop or as the second half of a restart."""
    REMOVING = "REMOVING"

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way."""
        return self in (Phase.DEPLOYED, Phase.STOPPED)

    @property
    def is_made(self) -> bool:
        """Whether the backend must have something of it, unless it is scaled to zero."""
        return self not in (Phase.DEPLOYING, Phase.REMOVING)

    @property
    def may_run(self) -> bool:
        """Whether what has ended of it may be started again."""
        return self not in (Phase.STOPPING, Phase.STOPPED, Phase.REMOVING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """How an accepted removal is to be carried out, also after a restart."""

    grace_seconds: float | None = None
    force: bool = False
    remove_volumes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """How a stop that was asked for is to be carried out, also after a restart."""

    grace_seconds: float | None = None
    signal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of one workload."""

    node_id: str
    workload_id: str
    manifest_id: str
    """The deployment's id."""
    manifest: str | None
    """The text as it was deployed; None for objects that were found in the backend and are being removed."""
    format: Format | None = None
    content_digest: str = ""
    manifest_digest: str = ""
    """The manifest's canonical digest."""
    config: Config = field(default_factory=Config)
    canonical_digest: str = ""
    """Of the manifest and the config that counts: it alone decides "nothing changed"."""
    generation: int = 1
    phase: Phase = Phase.DEPLOYING
    create_time: float
    update_time: float
    request_id: str = ""
    """Of the last deploy."""
    scaled_to_zero: bool = False
    """It is right that the backend has nothing of it."""
    components: tuple[str, ...] = ()
    """The places of the main components that it makes; empty where the engine cannot tell."""
    removal: Removal | None = None
    halt: Halt | None = None
    """Of the last stop."""
    earlier_hashes: tuple[str, ...] = ()
    """Hash labels of contents that were updated in place to this one: objects that stayed still carry them."""

    def made_of(self, label: str) -> bool:
        """Whether an object with this hash label is of this content."""
        return label in (hash_label(self.canonical_digest), *self.earlier_hashes)

    def missing(self, observation: Observation | None) -> tuple[str, ...]:
        """The places of components that were made, were not stopped, and are not there any more."""
        if self.phase is not Phase.DEPLOYED or observation is None:
            return ()
        there = Counter(component.place for component in observation.components if component.role is Role.MAIN)
        return tuple((Counter(self.components) - there).elements())

    @property
    def should_be_there(self) -> bool:
        """Whether a backend that has nothing of it has lost it."""
        return self.phase.is_made and not self.scaled_to_zero

    @property
    def ownership(self) -> Ownership:
        """The ids that its backend objects carry."""
        return Ownership(
            node_id=self.node_id,
            deployment_id=self.manifest_id,
            workload_id=self.workload_id,
            manifest_hash=self.canonical_digest,
        )


class Records:
    """All records, in memory and on disk; the caller serializes the changes of one workload.

    A file that cannot be read is left as it is, is named in the log and in `unreadable`, and costs only its own
    workload: `get` and `write` raise DataLoss for it.
    """

    def __init__(self, directory: Path, *, write: Callable[[Path, bytes], None] = write_atomically) -> None:
        self._directory = directory
        self._write = write
        self._known: dict[str, Record] = {}
        self._unreadable: dict[str, str] = {}
        self._is_loaded = False
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="records")

    def load(self) -> None:
        """Read every record; makes the directory (0700) when there is none yet."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            workload_id = path.name.removesuffix(_SUFFIX)
            try:
                self._known[workload_id] = _decode(path, workload_id)
            except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
                self._unreadable[workload_id] = f"{path}: {error}"
                log.error("record_unreadable", file=path, why=error)
        for leftover in self._directory.glob(f".*{_SUFFIX}.tmp"):
            leftover.unlink(missing_ok=True)
        self._is_loaded = True

    def close(self) -> None:
        """Wait for the writes under way."""
        self._writers.shutdown()

    @property
    def unreadable(self) -> Mapping[str, str]:
        """By workload id: the file and why it could not be read."""
        return self._unreadable

    def peek(self, workload_id: str) -> Record | None:
        """The record; None also where it is unreadable."""
        return self._known.get(workload_id)

    def get(self, workload_id: str) -> Record | None:
        """The record, or None; raises DataLoss(RECORD_UNREADABLE)."""
        if why := self._unreadable.get(workload_id):
            raise DataLoss(
                f"the record of workload {workload_id} cannot be read ({why}); restore the file or move it away, "
                "then restart the engine",
                reason="RECORD_UNREADABLE",
                metadata={"workload_id": workload_id, "file": str(self._path(workload_id))},
            )
        return self._known.get(workload_id)

    def may_run(self, workload_id: str) -> bool:
        """Whether it may be started by itself: not what was stopped or is to go, nor what may be so for all we know."""
        if not self._is_loaded or workload_id in self._unreadable:
            return False
        record = self._known.get(workload_id)
        return record is None or record.phase.may_run

    def all(self) -> list[Record]:
        """Every readable record."""
        return list(self._known.values())

    async def write(self, record: Record) -> None:
        """Make it durable, then known.

        Raises ResourceExhausted(DISK_FULL), Unavailable(DATA_DIR_READ_ONLY), DataLoss, Internal(RECORD_NOT_WRITTEN).
        """
        self.get(record.workload_id)
        path, data = self._path(record.workload_id), msgspec.json.encode(record)
        try:
            await asyncio.get_running_loop().run_in_executor(self._writers, self._write, path, data)
        except OSError as error:
            raise _not_written(path, error) from error
        self._known[record.workload_id] = record

    async def drop(self, workload_id: str) -> None:
        """Delete the record, durably; a repeat is harmless and an unreadable file stays. Raises Internal."""
        if workload_id not in self._known:
            return
        path = self._path(workload_id)
        try:
            await asyncio.get_running_loop().run_in_executor(self._writers, _delete, path)
        except OSError as error:
            raise _not_written(path, error) from error
        del self._known[workload_id]

    def _path(self, workload_id: str) -> Path:
        return self._directory / f"{workload_id}{_SUFFIX}"


def _decode(path: Path, workload_id: str) -> Record:
    record = msgspec.json.decode(path.read_bytes(), type=Record)
    if record.workload_id != workload_id:
        raise ValueError(f"it is the record of {record.workload_id}")
    return record


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def _not_written(path: Path, error: OSError) -> BeemeshError:
    found = faults.of_file(error, path)
    if isinstance(found, FailedPrecondition):  # of the machine, not of the request: who asked may ask again
        return Unavailable(found.message, reason=found.reason, metadata=found.metadata, retry_after=5.0)
    return found or Internal(f"cannot write {path}: {error}", reason="RECORD_NOT_WRITTEN", metadata={"path": str(path)})
