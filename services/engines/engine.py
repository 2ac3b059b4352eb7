"""The interface that every runtime engine implements; its docstrings are the spec, `words` its vocabulary.

An engine is the thin part that knows one backend. What all engines share stands beside it: `keeper` (records on disk,
idempotency, replace, truth after a restart), `monitor` (health), `servicer` (gRPC), `service` (the process). To add an
engine: one folder with an `Engine`, and one line in tests/conformance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self

from services.engines.words import (
    Capability,
    Change,
    ChangeAction,
    Component,
    ComponentStats,
    Config,
    ExecOrder,
    ExecOutput,
    ExitStatus,
    Export,
    Health,
    HealthState,
    Info,
    Invocation,
    Invoked,
    Issue,
    LogLine,
    LogQuery,
    LogSource,
    Observation,
    PortMapping,
    Resources,
    Role,
    Severity,
    Spec,
    Status,
    WorkloadState,
    place,
)
from services.errors import Unimplemented
from services.manifests import Manifest

__all__ = [
    "Capability",
    "Change",
    "ChangeAction",
    "Component",
    "ComponentStats",
    "Config",
    "Engine",
    "ExecOrder",
    "ExecOutput",
    "ExecSession",
    "ExitStatus",
    "Export",
    "Health",
    "HealthState",
    "Info",
    "Invocation",
    "Invoked",
    "Issue",
    "LogLine",
    "LogQuery",
    "LogSource",
    "Observation",
    "PortMapping",
    "Resources",
    "Role",
    "Severity",
    "Spec",
    "Status",
    "WorkloadState",
    "Workloads",
    "place",
]


class ExecSession(ABC):
    """A command that runs. One reader and one writer at a time; nothing is buffered beyond the backend's pipes."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """To its stdin, as fast as the command reads; what comes after its end is dropped."""

    @abstractmethod
    async def close_stdin(self) -> None:
        """Its stdin has ended."""

    @abstractmethod
    async def resize(self, rows: int, columns: int) -> None:
        """The size of its terminal."""

    @abstractmethod
    def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        """What it writes, as it comes; last its ExitStatus.

        Raises FailedPrecondition (COMMAND_NOT_FOUND, COMMAND_NOT_EXECUTABLE) when it could not be started.
        """


class Workloads(ABC):
    """What is done with workloads on one backend: by an engine, or by the part of it that runs one manifest format.

    All methods may be called at once; changes of one workload are serialized by the keeper.

    Lifecycle: `async with engine:` opens connections (it must not fail because the backend is down: that is health) and
    closes them again; it never stops a workload. The engine keeps no truth of its own: the backend's objects, found by
    their labels, are the truth, and only objects whose `beemesh.io/node-id` is `node_id` are ever listed or touched.

    Errors, in the words of services.errors: `Unavailable(BACKEND_UNREACHABLE)` when the backend does not answer;
    `DeadlineExceeded(BACKEND_TIMEOUT)` when it took the request and did not answer in time; `FailedPrecondition` with
    UNSUPPORTED_KIND, UNSUPPORTED_FIELD (with violations), PORT_IN_USE, IMAGE_NOT_FOUND, IMAGE_DENIED (metadata `image`:
    the full reference that was tried); `ResourceExhausted` for room; `Internal(BACKEND_ERROR)` for what has no better
    name, with the backend's own text. Blocking SDKs run in an executor of the engine's own.
    """

    @property
    @abstractmethod
    def engine_id(self) -> str:
        """Of the engine whose they are."""

    node_id: str
    listener: Callable[[str, str], None] | None = None
    """Hears a workload's id and, in words, how far its creation is; set by the keeper."""
    may_run: Callable[[str], bool] | None = None
    """Whether a workload is meant to run; set by the keeper, whose records alone say what was stopped or is to go. An
    engine that starts what has ended by itself asks it before each start."""

    async def __aenter__(self) -> Self:
        """Open connections; do not wait for the backend."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close connections; workloads run on."""
        return

    @abstractmethod
    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """Every field (with its line) and kind that this engine cannot honour, and every unknown engine option.

        Pure: no backend is asked. An ERROR would change the workload's meaning if it were dropped; a WARNING would not.
        An option that the engine does not document is an ERROR with reason UNKNOWN_OPTION and the path
        `config.engine_options.<key>`; it is refused in every validation mode.
        """

    async def examine(self, manifest: Manifest, config: Config) -> None:
        """Have the engine's own tools read what `check` found nothing wrong with; no backend is asked, nothing is made.

        For what a deploy is going to be refused for anyway, told to who validates or plans. Raises what `create` would:
        InvalidArgument(MANIFEST_INVALID) and FailedPrecondition, with violations. The default has no tools.
        """
        return

    async def prepare(self, spec: Spec) -> None:
        """Make sure that what `create` needs from outside (images) is there, and touch nothing else.

        Called before a workload that runs is destroyed to make room for `spec`: what fails here costs nothing. Raises
        like `create`; the default has nothing to prepare.
        """
        return

    @abstractmethod
    async def create(self, spec: Spec) -> None:
        """Create and start all of the workload, or leave nothing of it: a failure is cleaned up before it is raised.

        Called only when `observe_one` found nothing. Returns when the backend has started it; not when it is ready.
        A failed clean-up is said in the error's metadata (`leftovers`: "true").
        """

    def tell(self, workload_id: str, progress: str) -> None:
        """Say, from within `create`, what it takes its time for, e.g. how much of an image has been pulled."""
        if self.listener is not None:
            self.listener(workload_id, progress)

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

    # Optional verbs: an engine that has one claims its capability, and only then is it called

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """Stop all components (`signal` or the image's own, the grace period, KILL) and keep them (STOP_START).

        Returns when all have ended, and nothing starts them again but `start`. A repeat is harmless.
        """
        raise self.lacks("StopWorkload")

    async def start(self, workload_id: str) -> None:
        """Start every main component that does not run, without recreating any (STOP_START); a repeat is harmless."""
        raise self.lacks("StartWorkload")

    async def restart(self, workload_id: str, *, grace_seconds: float | None) -> None:
        """Stop, then start (RESTART); cut in between it is healed by `start`."""
        await self.stop(workload_id, grace_seconds=grace_seconds)
        await self.start(workload_id)

    def components(self, manifest: Manifest, config: Config) -> Sequence[str]:
        """The main components that a manifest makes, as `Component.place`; empty: this engine cannot tell. Pure.

        With it a workload that has lost some of them is told from one that is whole.
        """
        return ()

    def effect(self, change: Change, manifest: Manifest) -> str:
        """What carrying out one change needs: "" nothing ends, "restart" or "replace" (UPDATE_IN_PLACE). Pure.

        `manifest` is the new one. Only asked about what differs; a change of which nothing is known replaces.
        """
        return "replace"

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """Bring what runs from `old` to `new`, touching nothing that is the same (UPDATE_IN_PLACE).

        Called only when no change replaces. It may find less or more than `old` has, when an earlier update was cut,
        and ends with exactly `new`. A failure takes back what was added; where that failed too, or something is gone
        that cannot be taken back, the error's metadata has `leftovers`: "true". Objects that stay may keep the label
        of the content that they were made for.
        """
        raise self.lacks("UpdateInPlace")

    def exec(self, workload_id: str, order: ExecOrder) -> AbstractAsyncContextManager[ExecSession]:
        """Run a command in a component (EXEC); leaving the block kills it if it still runs.

        Raises NotFound (WORKLOAD_NOT_FOUND, COMPONENT_NOT_FOUND), InvalidArgument (COMPONENT_REQUIRED: there are
        several), FailedPrecondition (WORKLOAD_NOT_RUNNING).
        """
        raise self.lacks("ExecWorkload")

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """One sample of each component that runs (STATS); raises NotFound(WORKLOAD_NOT_FOUND)."""
        raise self.lacks("GetWorkloadStats")

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        """The workload as a manifest of its own format, written from what was asked for and what is there (EXPORT)."""
        raise self.lacks("ExportManifest")

    async def invoke(self, workload_id: str, invocation: Invocation) -> Invoked:
        """Call a function once (INVOKE); cancelled, the call is ended.

        Raises NotFound(WORKLOAD_NOT_FOUND), FailedPrecondition(WORKLOAD_NOT_RUNNING), and what the contract says of
        InvokeFunction.
        """
        raise self.lacks("InvokeFunction")

    def lacks(self, verb: str) -> Unimplemented:
        """The error of a verb that this engine does not have."""
        return Unimplemented(
            f"engine {self.engine_id} does not have {verb}",
            reason="UNSUPPORTED_VERB",
            metadata={"engine": self.engine_id, "verb": verb},
        )


class Engine(Workloads):
    """One runtime backend: what `Workloads` promises, who it is, and whether it can run anything now."""

    @property
    def engine_id(self) -> str:
        """As `info` has it."""
        return self.info.engine

    @property
    @abstractmethod
    def info(self) -> Info:
        """Identity and capabilities."""

    @abstractmethod
    async def probe(self) -> Health:
        """Find out whether the backend can truly run a workload now; never raises for a sick backend.

        May take seconds; the monitor bounds it and treats a timeout as UNHEALTHY. The reasons SOCKET_UNREACHABLE and
        BACKEND_UNREACHABLE say that nothing else can be asked either: workloads are then UNKNOWN at once.
        """


async def _nothing() -> AsyncIterator[None]:
    return
    yield
