"""The interface that every runtime engine implements, and the words it is written in; its docstrings are the spec.

An engine is the thin part that knows one backend. What all engines share stands beside it: `keeper` (records on disk,
idempotency, replace, truth after a restart), `monitor` (health), `servicer` (gRPC), `service` (the process). To add an
engine: one folder with an `Engine`, and one line in tests/conformance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from services.errors import Unimplemented
from services.identity import Ownership
from services.manifests import Format, Manifest


class WorkloadState(IntEnum):
    """The numbers of beemesh.engine.v1.WorkloadState, and their meaning."""

    PENDING = 1
    STARTING = 2
    RUNNING = 3
    DEGRADED = 4
    STOPPING = 5
    STOPPED = 6
    SUCCEEDED = 7
    FAILED = 8
    REJECTED = 9
    REMOVED = 10
    UNKNOWN = 11


class HealthState(IntEnum):
    """The numbers of beemesh.engine.v1.EngineHealthState."""

    UNDETECTED = 1
    UNHEALTHY = 2
    HEALTHY = 3
    DRAINING = 4


class Capability(IntEnum):
    """The numbers of beemesh.engine.v1.EngineCapability; only what is finished is claimed."""

    LOGS = 1
    LOGS_FOLLOW = 2
    EXEC = 3
    STATS = 4
    STOP_START = 5
    RESTART = 6
    UPDATE_IN_PLACE = 7
    EXPORT = 8
    EVENTS = 9
    REPLICAS = 10


class ChangeAction(IntEnum):
    """The numbers of beemesh.type.v1.ChangeAction."""

    NONE = 1
    CREATE = 2
    UPDATE_IN_PLACE = 3
    REPLACE = 4
    REMOVE = 5


class LogSource(IntEnum):
    """The numbers of beemesh.engine.v1.LogSource."""

    STDOUT = 1
    STDERR = 2
    CONSOLE = 3
    ENGINE = 4


class Role(IntEnum):
    """The numbers of beemesh.engine.v1.Component.Role."""

    MAIN = 1
    INIT = 2


class Severity(IntEnum):
    """The numbers of beemesh.type.v1.IssueSeverity."""

    WARNING = 1
    ERROR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Room; None where it is not said."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the caller asks beyond the manifest (beemesh.engine.v1.DeploymentConfig)."""

    replicas: int | None = None
    """Set: beats the manifest."""
    resources: Resources = field(default_factory=Resources)
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to every container."""
    engine_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One workload to be created."""

    ownership: Ownership
    """Its ids; every backend object made for it carries `ownership.labels()`."""
    manifest: Manifest
    config: Config

    @property
    def workload_id(self) -> str:
        """The workload's id, and the prefix of its backend objects' names."""
        return self.ownership.workload_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How a component ended."""

    exit_code: int
    signal: str = ""
    oom_killed: bool = False
    finish_time: float | None = None
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A container, domain or function instance, as the backend has it."""

    component_id: str
    display_name: str
    """The name in the manifest, e.g. the container's."""
    image: str = ""
    state: WorkloadState = WorkloadState.UNKNOWN
    reason: str = ""
    """CamelCase, e.g. OOMKilled."""
    message: str = ""
    restart_count: int = 0
    start_time: float | None = None
    exit_status: ExitStatus | None = None
    replica: int = 0
    role: Role = Role.MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """A published port."""

    container_port: int
    host_port: int
    host_ip: str = ""
    protocol: str = "TCP"
    """TCP or UDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the backend has of one workload, right now."""

    ownership: Ownership
    """Read back from the labels; `manifest_hash` holds the label's 16 hex digits, not the whole digest."""
    components: tuple[Component, ...]
    """Empty: objects are there (a pod, a network), but nothing that runs."""
    ports: tuple[PortMapping, ...] = ()
    create_time: float | None = None
    stopped_on_request: bool = False
    details: Mapping[str, object] = field(default_factory=dict)
    """Engine-specific facts, JSON-shaped (e.g. `{"pods": ["…"]}`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What one probe found."""

    state: HealthState
    reason: str = ""
    """UPPER_SNAKE_CASE, e.g. SOCKET_UNREACHABLE; empty when healthy."""
    message: str = ""
    """The backend's own error text, and what to do about it."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Facts such as `backend_version`, `rootless`, `cgroup`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Who an engine is; constant while its process lives, but for the backend's version."""

    engine: str
    display_name: str
    engine_version: str
    backend_version: str = ""
    api_version: str = ""
    capabilities: frozenset[Capability]
    formats: frozenset[Format]
    kinds: tuple[str, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One finding about a manifest."""

    severity: Severity
    field_path: str
    reason: str
    """UNSUPPORTED_FIELD, UNSUPPORTED_KIND, …"""
    message: str
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which lines of a workload are wanted."""

    component_id: str = ""
    """Empty: all components. A display name is accepted too."""
    follow: bool = False
    tail_lines: int | None = None
    """None: all; 0: none (only what follows); n: the last n of each component."""
    since_time: float | None = None
    resume_cursor: str = ""
    """The cursor of the last line seen; lines after it follow."""
    sources: frozenset[LogSource] = frozenset()
    """Empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of output."""

    component_id: str
    source: LogSource
    time: float | None
    """Seconds since 1970, as the backend wrote it."""
    text: str
    """Without its newline; invalid UTF-8 replaced."""
    partial: bool = False
    cursor: str = ""
    """Opaque; resumes after this line."""


class Engine(ABC):
    """One runtime backend. All methods may be called at once; changes of one workload are serialized by the keeper.

    Lifecycle: `async with engine:` opens connections (it must not fail because the backend is down: that is health) and
    closes them again; it never stops a workload. The engine keeps no truth of its own: the backend's objects, found by
    their labels, are the truth, and only objects whose `beemesh.io/node-id` is `node_id` are ever listed or touched.

    Errors, in the words of services.errors: `Unavailable(BACKEND_UNREACHABLE)` when the backend does not answer;
    `DeadlineExceeded(BACKEND_TIMEOUT)` when it took the request and did not answer in time; `FailedPrecondition` with
    UNSUPPORTED_KIND, UNSUPPORTED_FIELD (with violations), PORT_IN_USE, IMAGE_NOT_FOUND, IMAGE_DENIED (metadata `image`:
    the full reference that was tried); `ResourceExhausted` for room; `Internal(BACKEND_ERROR)` for what has no better
    name, with the backend's own text. Blocking SDKs run in an executor of the engine's own.
    """

    node_id: str

    @property
    @abstractmethod
    def info(self) -> Info:
        """Identity and capabilities."""

    async def __aenter__(self) -> Self:
        """Open connections; do not wait for the backend."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close connections; workloads run on."""
        return

    @abstractmethod
    async def probe(self) -> Health:
        """Find out whether the backend can truly run a workload now; never raises for a sick backend.

        May take seconds; the monitor bounds it and treats a timeout as UNHEALTHY. The reasons SOCKET_UNREACHABLE and
        BACKEND_UNREACHABLE say that nothing else can be asked either: workloads are then UNKNOWN at once.
        """

    @abstractmethod
    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Every field (with its line) and kind that this engine cannot honour, and every unknown engine option.

        Pure: no backend is asked. An ERROR would change the workload's meaning if it were dropped; a WARNING would not.
        An option that the engine does not document is an ERROR with reason UNKNOWN_OPTION and the path
        `config.engine_options.<key>`; it is refused in every validation mode.
        """

    @abstractmethod
    async def create(self, spec: Spec) -> None:
        """Create and start all of the workload, or leave nothing of it: a failure is cleaned up before it is raised.

        Called only when `observe_one` found nothing. Returns when the backend has started it; not when it is ready.
        A failed clean-up is said in the error's metadata (`leftovers`: "true").
        """

    @abstractmethod
    async def observe(self) -> Mapping[str, Observation]:
        """All workloads of this node in the backend, by workload id, broken and half-made ones included.

        Raises Unavailable or DeadlineExceeded when the backend cannot say: never an empty answer instead.
        """

    async def observe_one(self, workload_id: str) -> Observation | None:
        """One workload, or None because the backend said that it has nothing of it; raises like `observe`."""
        return (await self.observe()).get(workload_id)

    @abstractmethod
    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """Stop (TERM, the grace period, KILL) and delete every backend object of the workload; a repeat is harmless.

        `grace_seconds` None: what the manifest said. `force`: kill at once. Named volumes stay unless `remove_volumes`.
        Returns only when the backend has confirmed that nothing is left: this is the fence.
        """

    @abstractmethod
    def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """Batches of lines, in each component's order; ends when all components ended, or at once without `follow`.

        Raises NotFound when the backend has no such workload. Closing the iterator frees the backend's stream.
        """

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever something may have changed in the backend; the keeper then observes (it also polls).

        Raises when the backend's event stream breaks; the keeper opens it anew. The default never yields.
        """
        return _nothing()

    async def stop(self, workload_id: str, *, grace_seconds: float | None) -> None:
        """Stop and keep (capability STOP_START)."""
        raise self._unfinished("StopWorkload")

    async def start(self, workload_id: str) -> None:
        """Start what was stopped (capability STOP_START)."""
        raise self._unfinished("StartWorkload")

    def _unfinished(self, verb: str) -> Unimplemented:
        return Unimplemented(
            f"engine {self.info.engine} does not have {verb}",
            reason="UNSUPPORTED_VERB",
            metadata={"engine": self.info.engine, "verb": verb},
        )


async def _nothing() -> AsyncIterator[None]:
    return
    yield
