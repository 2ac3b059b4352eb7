"""The words that the engine interface is written in: plain data, and the numbers of the contract's enums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

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
    INVOKE = 11


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


class Status(IntEnum):
    """The numbers of beemesh.type.v1.Condition.Status."""

    TRUE = 1
    FALSE = 2
    UNKNOWN = 3


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
    reason: str = ""
    """CamelCase, e.g. Completed, Error, OOMKilled, LivenessProbeFailed."""
    message: str = ""
    """More about it, e.g. what the failed probe said."""


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
    """Of the present run, once it has ended."""
    replica: int = 0
    role: Role = Role.MAIN
    ready: bool | None = None
    """None: whoever runs is ready."""
    started: bool | None = None
    """None: whoever runs has started."""
    ready_once: bool = False
    """It was ready in this or an earlier run: what is not ready now has failed, and is not still coming up."""
    last_exit: ExitStatus | None = None
    """Of the run before the present one; None: it was never restarted."""

    @property
    def place(self) -> str:
        """Where it belongs in its workload."""
        return place(self.replica, self.display_name)

    @property
    def is_ready(self) -> bool:
        """Whether it can be used."""
        return self.state is WorkloadState.RUNNING and self.ready is not False

    @property
    def is_started(self) -> bool:
        """Whether it is past its start."""
        return self.state is WorkloadState.RUNNING and self.started is not False


def place(replica: int, name: str) -> str:
    """The place of a component: the number of its replica and its name in the manifest."""
    return f"{replica}/{name}"


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
    lossy: bool = False
    """Something in the text was replaced."""
    dropped_lines: int = 0
    """At least so many lines before this one are, or may be, lost: the log was cut at its size limit."""
    cursor: str = ""
    """Opaque; resumes after this line."""
    invocation_id: str = ""
    """Of the call that wrote it; empty where none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of a plan: how what is wanted differs from what was asked for before."""

    action: ChangeAction
    """Of its target: CREATE and REMOVE concern the whole of it."""
    target: str
    """`pod/web/container/main`, `configmap/settings`, `config`."""
    field_path: str = ""
    """Within the target; empty: the whole target."""
    path: tuple[str | int, ...] = ()
    """The same as steps; a container, port or variable stands under its name."""
    kind: str = ""
    """Of the document; empty for the deployment config."""
    old_value: str = ""
    """As a person reads it; "(secret)" for what must not be shown, empty where there is none."""
    new_value: str = ""
    forces: str = ""
    """What it does to what runs: "" nothing, "restart" or "replace"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentStats:
    """One sample of a component's use; None for what the backend does not measure."""

    component_id: str
    sample_time: float
    """Seconds since 1970."""
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    network_rx_bytes: int | None = None
    """Since the start; components that share a network tell the same."""
    network_tx_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOrder:
    """What to run, and where."""

    component_id: str = ""
    """Id or display name; empty: the only main component."""
    command: tuple[str, ...]
    """Program and arguments; no shell is added."""
    tty: bool = False


@dataclass(frozen=True, slots=True)
class ExecOutput:
    """A piece of what a command wrote; with a terminal all of it is stdout."""

    source: LogSource
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A manifest written from what runs."""

    text: str
    issues: tuple[Issue, ...] = ()
    """What could not be represented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of a function."""

    event: bytes
    """JSON text."""
    timeout: float | None = None
    """Seconds; None, or longer than the manifest's: the manifest's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoked:
    """What a call of a function gave."""

    result: bytes
    """JSON text."""
    logs: tuple[LogLine, ...] = ()
    """What it wrote, from the first line on, up to a limit."""
    invocation_id: str
    cold_start: bool
    """An instance was made for it."""
    duration: float
    """Seconds in the handler."""
