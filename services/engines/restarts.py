"""Whether and when a container that ended is started again, as Kubernetes has it: no clock, no IO.

The first restart is immediate; then each waits, counted from the container's end: 10 s, 20 s, 40 s … at most 300 s. A
run of 10 minutes makes the next restart immediate again. A clean exit is delayed like a crash. (Kubernetes, Pod
Lifecycle, "How Pods handle problems with containers"; in kubelet the first exit finds no back-off entry, too.)

Times are seconds since 1970, since they are compared with the backend's and outlive this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Policy(StrEnum):
    """A PodSpec's `restartPolicy`."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"

    @property
    def of_init(self) -> Policy:
        """What it means for an init container, which is done once it has exited 0."""
        return Policy.NEVER if self is Policy.NEVER else Policy.ON_FAILURE


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How long restarts wait; seconds."""

    base: float = 10.0
    """Before the second restart; doubled from there."""
    cap: float = 300.0
    forget_after: float = 600.0
    """A run of this length makes the next restart immediate."""

    def after(self, delay: float) -> float:
        """The wait that follows a wait of `delay`."""
        return min(self.cap, 2 * delay) if delay > 0 else min(self.cap, self.base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How one run of a container ended."""

    exit_code: int
    reason: str = ""
    """CamelCase, e.g. Completed, Error, OOMKilled, LivenessProbeFailed."""
    start_time: float | None = None
    """None: not known; then it is as old as its last restart."""
    finish_time: float
    unhealthy: bool = False
    """It was stopped because a probe failed: a failure, whatever the exit code."""
    message: str = ""
    """What the failed probe said."""

    @property
    def failed(self) -> bool:
        """Whether OnFailure counts it as a failure."""
        return self.unhealthy or self.exit_code != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What must be kept of one container's restarts; msgspec writes and reads it as it is."""

    restart_count: int = 0
    next_delay: float = 0.0
    """Seconds that the next restart waits, unless the run was long enough to forget."""
    restart_time: float | None = None
    """When it was restarted last."""
    last_exit: Exit | None = None

    def restarted(self, exit_: Exit, *, now: float, back_off: BackOff) -> History:
        """The history once more; keep it before the restart is carried out, so that none goes uncounted."""
        return History(
            restart_count=self.restart_count + 1,
            next_delay=back_off.after(self.delay_after(exit_, back_off)),
            restart_time=now,
            last_exit=exit_,
        )

    def stayed(self, exit_: Exit) -> History:
        """The history of a container that ended and is not restarted."""
        return replace(self, last_exit=exit_)

    def delay_after(self, exit_: Exit, back_off: BackOff) -> float:
        """How long a restart after this exit waits."""
        begun = self.restart_time if exit_.start_time is None else exit_.start_time
        long_run = begun is not None and exit_.finish_time - begun >= back_off.forget_after
        return 0.0 if long_run else min(back_off.cap, self.next_delay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start it again, not before `at`; `delay` is the whole wait (0: it is not in back-off)."""

    at: float
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """Leave it as it is."""

    failed: bool
    """Whether it ended in failure."""


def policy_of(spec: Mapping[str, Any]) -> Policy:
    """The restart policy of a PodSpec that is valid by the schema."""
    return Policy(spec.get("restartPolicy") or Policy.ALWAYS)


def decide(
    policy: Policy, exit_: Exit, history: History, *, now: float, back_off: BackOff | None = None
) -> Restart | Stay:
    """What to do about a container that ended; `history` is from before this exit."""
    wanted = policy is Policy.ALWAYS or (policy is Policy.ON_FAILURE and exit_.failed)
    if not wanted:
        return Stay(failed=exit_.failed)
    delay = history.delay_after(exit_, back_off or BackOff())
    finished = min(exit_.finish_time, now)  # the wall clock may have been set back since
    return Restart(at=max(now, finished + delay), delay=delay)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRun:
    """How far one init container got; neither running nor ended: it was not started yet."""

    running: bool = False
    exit: Exit | None = None
    """Of its last run, if it is not running."""
    history: History = field(default_factory=History)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInit:
    """Start the init container `index`, not before `at`."""

    index: int
    at: float
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitInit:
    """The init container `index` is running."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InitFailed:
    """The init container `index` failed for good, and with it the pod: its containers are never started."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InitsDone:
    """All init containers have exited 0: the containers may start."""


InitStep = StartInit | AwaitInit | InitFailed | InitsDone


def next_init(policy: Policy, runs: Sequence[InitRun], *, now: float, back_off: BackOff | None = None) -> InitStep:
    """What comes next of a pod's init containers, given in their order; `policy` is the pod's."""
    for index, run in enumerate(runs):
        if run.running:
            return AwaitInit(index=index)
        if run.exit is None:
            return StartInit(index=index, at=now, restart=False)
        match decide(policy.of_init, run.exit, run.history, now=now, back_off=back_off):
            case Restart(at=at):
                return StartInit(index=index, at=at, restart=True)
            case Stay(failed=True):
                return InitFailed(index=index)
    return InitsDone()
