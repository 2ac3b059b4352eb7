"""The life of a deployment as a table: (step, outcome) → step and state. Pure; `apply` performs the steps.

One invariant carries it: an engine is in `touched` before it is called and leaves it only when it has confirmed that
nothing is left there; DEPLOY is entered only with `touched` within {the chosen engine}. So there are never two copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from services.errors import BeemeshError, Code
from services.orchestrator.model import Deployment, Failure, State, Step


class Outcome(StrEnum):
    """What performing a step came to."""

    CHOSEN = "CHOSEN"
    """SELECT found an engine, and no other one may hold a copy."""
    CHOSEN_ELSEWHERE = "CHOSEN_ELSEWHERE"
    """SELECT found an engine, and another one must be emptied first."""
    NO_ENGINE = "NO_ENGINE"
    """SELECT found none."""
    FENCED = "FENCED"
    """Every engine but the chosen one has confirmed that it holds nothing."""
    FENCED_FOR_RETRY = "FENCED_FOR_RETRY"
    """All is confirmed gone after a failed attempt: choose again."""
    UNREACHABLE = "UNREACHABLE"
    """An engine did not answer: try this step again later."""
    DEPLOYED = "DEPLOYED"
    REFUSED = "REFUSED"
    """The engine said no, and no other engine may help."""
    FALL_BACK = "FALL_BACK"
    """The attempt failed and another candidate is allowed."""
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    BROKEN = "BROKEN"
    """The workload was started and failed."""
    VANISHED = "VANISHED"
    """The engine has said that the workload is not there."""
    REMOVED = "REMOVED"
    ROLL_BACK = "ROLL_BACK"
    """The wish failed, and the last good one is to run instead."""
    STOP = "STOP"
    """The client wants it stopped and kept."""
    START = "START"
    """The client wants it to run again."""
    RESTART = "RESTART"
    """The client wants it restarted in place."""
    REPAIR = "REPAIR"
    """It is not as it should be, and is to be made so."""
    STOPPED = "STOPPED"
    STARTED = "STARTED"
    DELETE = "DELETE"
    """The client wants it gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where an outcome leads; `later` says that the step is tried again after a back-off."""

    step: Step
    state: State
    event: str
    """The reason of the event that tells of it."""
    later: bool = False


TABLE: Mapping[tuple[Step, Outcome], Row] = {
    (Step.SELECT, Outcome.CHOSEN): Row(step=Step.DEPLOY, state=State.DEPLOYING, event="ENGINE_SELECTED"),
    (Step.SELECT, Outcome.CHOSEN_ELSEWHERE): Row(step=Step.FENCE, state=State.DEPLOYING, event="MOVING"),
    (Step.SELECT, Outcome.NO_ENGINE): Row(step=Step.REST, state=State.FAILED, event="NO_ENGINE"),
    (Step.SELECT, Outcome.UNREACHABLE): Row(
        step=Step.SELECT, state=State.DEGRADED, event="SELECTION_DELAYED", later=True
    ),
    (Step.FENCE, Outcome.FENCED): Row(step=Step.DEPLOY, state=State.DEPLOYING, event="FENCED"),
    (Step.FENCE, Outcome.FENCED_FOR_RETRY): Row(step=Step.SELECT, state=State.DEPLOYING, event="FENCED"),
    (Step.FENCE, Outcome.UNREACHABLE): Row(step=Step.FENCE, state=State.DEGRADED, event="FENCE_DELAYED", later=True),
    (Step.DEPLOY, Outcome.DEPLOYED): Row(step=Step.SETTLE, state=State.DEPLOYING, event="DEPLOYED"),
    (Step.DEPLOY, Outcome.REFUSED): Row(step=Step.REST, state=State.FAILED, event="REFUSED"),
    (Step.DEPLOY, Outcome.FALL_BACK): Row(step=Step.FENCE, state=State.DEPLOYING, event="FALLBACK"),
    (Step.DEPLOY, Outcome.UNREACHABLE): Row(step=Step.DEPLOY, state=State.DEGRADED, event="DEPLOY_DELAYED", later=True),
    (Step.SETTLE, Outcome.RUNNING): Row(step=Step.REST, state=State.ACTIVE, event="ACTIVE"),
    (Step.SETTLE, Outcome.SUCCEEDED): Row(step=Step.REST, state=State.SUCCEEDED, event="SUCCEEDED"),
    (Step.SETTLE, Outcome.BROKEN): Row(step=Step.REST, state=State.FAILED, event="WORKLOAD_FAILED"),
    (Step.SETTLE, Outcome.VANISHED): Row(step=Step.DEPLOY, state=State.DEPLOYING, event="VANISHED"),
    **{
        (step, Outcome.ROLL_BACK): Row(step=Step.SELECT, state=State.ROLLING_BACK, event="ROLLING_BACK")
        for step in (Step.SELECT, Step.DEPLOY, Step.SETTLE)
    },
    (Step.REST, Outcome.STOP): Row(step=Step.STOP, state=State.DEPLOYING, event="STOPPING"),
    (Step.REST, Outcome.START): Row(step=Step.START, state=State.DEPLOYING, event="STARTING"),
    (Step.REST, Outcome.RESTART): Row(step=Step.RESTART, state=State.DEPLOYING, event="RESTARTING"),
    (Step.REST, Outcome.REPAIR): Row(step=Step.FENCE, state=State.DEPLOYING, event="REPAIRING"),
    (Step.STOP, Outcome.STOPPED): Row(step=Step.REST, state=State.STOPPED, event="STOPPED"),
    (Step.STOP, Outcome.UNREACHABLE): Row(step=Step.STOP, state=State.DEGRADED, event="STOP_DELAYED", later=True),
    (Step.START, Outcome.STARTED): Row(step=Step.SETTLE, state=State.DEPLOYING, event="STARTED"),
    (Step.START, Outcome.UNREACHABLE): Row(step=Step.START, state=State.DEGRADED, event="START_DELAYED", later=True),
    (Step.RESTART, Outcome.STARTED): Row(step=Step.SETTLE, state=State.DEPLOYING, event="RESTARTED"),
    (Step.RESTART, Outcome.UNREACHABLE): Row(
        step=Step.RESTART, state=State.DEGRADED, event="RESTART_DELAYED", later=True
    ),
    **{
        (step, Outcome.VANISHED): Row(step=Step.DEPLOY, state=State.DEPLOYING, event="VANISHED")
        for step in (Step.START, Step.RESTART)
    },
    **{
        (step, Outcome.REFUSED): Row(step=Step.REST, state=State.FAILED, event="REFUSED")
        for step in (Step.STOP, Step.START, Step.RESTART)
    },
    (Step.REMOVE, Outcome.REMOVED): Row(step=Step.GONE, state=State.DELETED, event="REMOVED"),
    (Step.REMOVE, Outcome.UNREACHABLE): Row(
        step=Step.REMOVE, state=State.DELETING, event="REMOVAL_DELAYED", later=True
    ),
    (Step.REST, Outcome.RUNNING): Row(step=Step.REST, state=State.ACTIVE, event="RECOVERED"),
    (Step.REST, Outcome.SUCCEEDED): Row(step=Step.REST, state=State.SUCCEEDED, event="SUCCEEDED"),
    (Step.REST, Outcome.BROKEN): Row(step=Step.REST, state=State.FAILED, event="WORKLOAD_FAILED"),
    (Step.REST, Outcome.VANISHED): Row(step=Step.REST, state=State.FAILED, event="DRIFTED"),
    **{
        (step, Outcome.DELETE): Row(step=Step.REMOVE, state=State.DELETING, event="DELETION_ACCEPTED")
        for step in set(Step) - {Step.REMOVE, Step.GONE}
    },
}


def advance(deployment: Deployment, outcome: Outcome, *, now: float, failure: Failure | None = None) -> Deployment:
    """The record after this outcome; `failure` is why, where there is a why. KeyError: the table has no such row."""
    row = TABLE[deployment.step, outcome]
    settled = row.step is Step.REST
    state = _ROLLED_BACK.get(row.state, row.state) if deployment.rolled_back else row.state
    return replace(
        deployment,
        step=row.step,
        state=state,
        retries=deployment.retries + 1 if row.later else 0,
        failure=failure if failure is not None or _is_clean(state) else deployment.failure,
        tried=() if settled else deployment.tried,
        observed_generation=deployment.generation if settled else deployment.observed_generation,
        update_time=now,
    )


_ROLLED_BACK: Mapping[State, State] = {State.DEPLOYING: State.ROLLING_BACK, State.ACTIVE: State.ROLLED_BACK}
"""How the states read once the wish is the one that was rolled back to."""

FAILED_OUTCOMES = frozenset({Outcome.NO_ENGINE, Outcome.REFUSED, Outcome.BROKEN})
"""What a wish to roll back is for."""


def roll_back(deployment: Deployment) -> Deployment:
    """The record with the last good wish in place of the failed one."""
    if deployment.rollback_to is None:
        raise ValueError(f"{deployment.deployment_id} has nothing to roll back to")
    return replace(
        deployment,
        wish=deployment.rollback_to,
        rollback_to=None,
        rolled_back=True,
        revision=deployment.revision + 1,
        engine_id="",
        tried=(),
        deployed="",
    )


def _is_clean(state: State) -> bool:
    """Whether an earlier failure is history now; while an operation goes on after one, its reason stays readable."""
    return state in (State.ACTIVE, State.SUCCEEDED, State.STOPPED, State.DELETED, State.DELETING)


_UNCERTAIN = {
    Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED,
    Code.UNKNOWN,
    Code.CANCELLED,
    Code.INTERNAL,
}
_OTHER_ENGINE_MAY = {"UNSUPPORTED_KIND", "UNSUPPORTED_FIELD", "ENGINE_DRAINING"}


def is_uncertain(error: BeemeshError) -> bool:
    """Whether the engine may have done the work (or part of it) although the call failed."""
    return error.code in _UNCERTAIN or error.metadata.get("leftovers") == "true"


def may_fall_back(error: BeemeshError) -> bool:
    """Whether another engine may be tried: the failure is of the engine, not of the manifest or of the image."""
    return is_uncertain(error) or error.code is Code.RESOURCE_EXHAUSTED or error.reason in _OTHER_ENGINE_MAY


BACKOFF_FIRST = 0.5
BACKOFF_MAX = 30.0
INTERNAL_TRIES = 3
"""After so many tries on one engine a BACKEND_ERROR is taken as final."""


def backoff(retries: int) -> float:
    """Seconds to wait before try number `retries` + 1 of a step."""
    return min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** min(max(retries - 1, 0), 10))
