"""What the orchestrator knows of a deployment: the record that SQLite keeps, and the words it is written in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from services.errors import BY_CODE, BeemeshError, Code, Unknown


class State(IntEnum):
    """The numbers of beemesh.orchestrator.v1.DeploymentState."""

    PENDING = 1
    DEPLOYING = 2
    ACTIVE = 3
    DEGRADED = 4
    ROLLING_BACK = 5
    ROLLED_BACK = 6
    FAILED = 7
    DELETING = 8
    DELETED = 9
    SUCCEEDED = 10
    STOPPED = 11
    UNKNOWN = 12


class Step(StrEnum):
    """Where an operation stands; the rows of flow.TABLE. A restart goes on from here."""

    SELECT = "SELECT"
    FENCE = "FENCE"
    DEPLOY = "DEPLOY"
    SETTLE = "SETTLE"
    STOP = "STOP"
    START = "START"
    RESTART = "RESTART"
    REST = "REST"
    REMOVE = "REMOVE"
    GONE = "GONE"


class Stage(IntEnum):
    """The numbers of beemesh.orchestrator.v1.SelectionStage: the rule that put a candidate where it is."""

    REQUEST = 1
    ANNOTATION = 2
    FORMAT = 3
    DEFAULT = 4
    BEST_AVAILABLE = 5


class Policy(IntEnum):
    """The numbers of beemesh.orchestrator.v1.FallbackPolicy."""

    NONE = 1
    COMPATIBLE = 2
    ANY = 3


class Verdict(IntEnum):
    """The numbers of beemesh.orchestrator.v1.EngineCandidate.Verdict."""

    SELECTED = 1
    ELIGIBLE = 2
    REJECTED = 3
    FAILED = 4


class Action(IntEnum):
    """The numbers of beemesh.type.v1.ChangeAction."""

    NONE = 1
    CREATE = 2
    UPDATE_IN_PLACE = 3
    REPLACE = 4
    REMOVE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One finding about a manifest, as an engine or the parser gave it."""

    severity: int
    """The numbers of beemesh.type.v1.IssueSeverity."""
    field_path: str
    reason: str
    message: str
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A domain error, kept in a record."""

    code: int
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BeemeshError) -> Failure:
        """The facts of a raised error."""
        return cls(code=int(error.code), reason=error.reason, message=error.message, metadata=error.metadata)

    def error(self) -> BeemeshError:
        """The error to raise again."""
        kind = BY_CODE.get(Code(self.code), Unknown)
        return kind(self.message, reason=self.reason, metadata=self.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine that was considered, with what came of it."""

    engine_id: str
    stage: Stage
    verdict: Verdict
    reason: str = ""
    message: str = ""
    issues: tuple[Issue, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """All candidates in the order considered; at most one is SELECTED."""

    candidates: tuple[Candidate, ...] = ()

    @property
    def selected(self) -> Candidate | None:
        """The chosen candidate."""
        return next((c for c in self.candidates if c.verdict is Verdict.SELECTED), None)

    @property
    def fell_back(self) -> bool:
        """Whether an earlier candidate was passed over."""
        selected = self.selected
        return selected is not None and self.candidates[0] != selected


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to deploy on one engine."""

    engine_id: str
    workload_id: str
    start_time: float
    end_time: float | None = None
    failure: Failure | None = None
    fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """beemesh.engine.v1.DeploymentConfig as it was asked for."""

    replicas: int | None = None
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    engine_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a client wants to run: the part of a record that only an apply changes."""

    manifest: str
    """Verbatim."""
    format: int
    """The numbers of beemesh.type.v1.ManifestFormat."""
    kinds: tuple[str, ...]
    canonical_digest: str
    """Of manifest and config: it alone decides "nothing changed"."""
    config: Config
    annotations: Mapping[str, str]
    engine_id: str = ""
    """As the request named it."""
    policy: Policy = Policy.COMPATIBLE
    warn: bool = False
    """ValidationMode WARN: fields that the engine would drop are issues, not refusals."""
    scaled_to_zero: bool = False
    """No replica is wanted: that nothing runs is as it should be."""
    cpu_cores: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment, as it is kept. Immutable: every change is a new record, durable before it is acted on."""

    deployment_id: str
    workload_id: str
    wish: Wish
    state: State
    step: Step
    generation: int = 1
    observed_generation: int = 0
    revision: int = 1
    action: Action = Action.CREATE
    """What the running or last operation does."""
    engine_id: str = ""
    """The chosen engine; it sticks."""
    touched: tuple[str, ...] = ()
    """Engines that may hold a copy. Written before an engine is called; taken out only by a confirmed fence."""
    volumes_on: tuple[str, ...] = ()
    """Engines that it has left and that may have kept its volumes: a deletion with volumes asks them too."""
    deployed: str = ""
    """Label form of the digest that the engine gave for this wish; "" until it has taken it."""
    tried: tuple[str, ...] = ()
    """Engines that failed in this operation; not chosen again in it."""
    decision: Decision = field(default_factory=Decision)
    attempts: tuple[Attempt, ...] = ()
    failure: Failure | None = None
    message: str = ""
    rollback_to: Wish | None = None
    """What to run instead should this wish fail: the last one that was well, where the client asked for that."""
    rolled_back: bool = False
    """`wish` is the one that was rolled back to; the failed one is the revision before, its failure in `failure`."""
    remove_volumes: bool = False
    force: bool = False
    grace_seconds: float | None = None
    """Of a stop or restart that was asked for; None: what the manifest says."""
    retries: int = 0
    """How often the current step was tried and could not be finished."""
    request_id: str = ""
    owner: str = ""
    create_time: float
    update_time: float

    @property
    def etag(self) -> str:
        """Changes with what a client wrote, not with what is observed."""
        text = f"{self.deployment_id}/{self.generation}/{self.wish.canonical_digest}/{self.state is State.DELETED}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def in_flight(self) -> bool:
        """Whether an operation is under way (perhaps waiting for a backend to return)."""
        return self.step not in (Step.REST, Step.GONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One content that a deployment had."""

    revision: int
    wish: Wish
    outcome: State
    """How it ended: ACTIVE, SUCCEEDED, FAILED…; a state in between when it was superseded."""
    engine_id: str
    time: float
    """Seconds since 1970, when it was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """An engine as the registry last told it."""

    engine_id: str
    endpoint: str
    aliases: tuple[str, ...] = ()
    formats: frozenset[int] = frozenset()
    kinds: frozenset[str] = frozenset()
    available: bool = True
    suspect: bool = False
    """Flapping: used only if nothing else is available."""
    reason: str = ""
    """Why it is not available."""
    message: str = ""
    """The engine's own words on that; empty when it has none."""
    cordoned: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A workload as its engine last told it."""

    workload_id: str
    engine_id: str
    state: int
    """The numbers of beemesh.engine.v1.WorkloadState."""
    message: str = ""
    manifest_id: str = ""
    """The deployment that it was made for."""
    action: int = 0
    """What a deploy has done (the numbers of beemesh.type.v1.ChangeAction); 0 where nothing was asked."""
    digest: str = ""
    """Of what runs, in the engine's words; only its label form (identity.hash_label) is compared."""
    incomplete: bool = False
    """Part of what was made is gone, while nothing is being done to it."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """How often its components were started again, by replica and name, for those that were."""
    endings: Mapping[str, str] = field(default_factory=dict)
    """How the run before the present one ended, by replica and name: its exit code and why."""
    raw: bytes = b""
    """The engine's serialized beemesh.engine.v1.Workload, passed on untouched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One planned change (beemesh.type.v1.PlannedChange)."""

    action: Action
    target: str
    """The component or object, e.g. `container/web`."""
    field_path: str = ""
    old_value: str = ""
    new_value: str = ""
    forces: str = ""
    """"", "restart" or "replace"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an apply would do."""

    action: Action
    changes: tuple[Change, ...] = ()
    decision: Decision = field(default_factory=Decision)
    issues: tuple[Issue, ...] = ()
    etag: str = ""
    """Of the deployment that it was made against; an apply that carries it applies exactly this plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What is said of a running deployment: the provider record, and the applied-manifest record beside it."""

    metadata: Mapping[str, str]
    """The six keys of a provider record."""
    digest: str
    """`sha256:<hex>` of the manifest's bytes."""
    kind: str
    owner: str
    engine_id: str
    apply_time: float
