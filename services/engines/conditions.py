"""The conditions of a workload: Ready, BackendReachable and ConfigMatches, each with the time since when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.engines.engine import Status, WorkloadState

READY = "Ready"
BACKEND_REACHABLE = "BackendReachable"
CONFIG_MATCHES = "ConfigMatches"
COMPONENT_MISSING = "ComponentMissing"
"""The reason of a ConfigMatches that is false because part of what was made is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One observed fact (beemesh.type.v1.Condition)."""

    type: str
    status: Status
    reason: str
    """CamelCase."""
    message: str = ""
    last_transition_time: float = 0.0
    """When the status last changed."""
    observed_generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionFacts:
    """All that the conditions are derived from."""

    state: WorkloadState
    message: str
    wanted_digest: str
    """Empty: nothing is recorded of what was asked for."""
    runtime_digest: str
    """Empty: nothing runs."""
    missing: tuple[str, ...] = ()
    """Components that were made and are gone."""
    changing: bool
    silent: bool
    """The backend does not answer; `message` says why."""


def judge(
    facts: ConditionFacts, *, since: Mapping[str, Condition], generation: int, now: float
) -> tuple[Condition, ...]:
    """All conditions; one whose status is as in `since` (by type) keeps its time."""
    found = (_ready(facts), _reachable(facts), _matches(facts))
    return tuple(_dated(condition, since.get(condition.type), generation, now) for condition in found)


def _dated(condition: Condition, before: Condition | None, generation: int, now: float) -> Condition:
    holds = before is not None and before.status is condition.status
    began = before.last_transition_time if before is not None and holds else now
    return replace(condition, last_transition_time=began, observed_generation=generation)


def _ready(facts: ConditionFacts) -> Condition:
    if facts.state is WorkloadState.UNKNOWN:
        status = Status.UNKNOWN
    else:
        status = Status.TRUE if facts.state is WorkloadState.RUNNING else Status.FALSE
    return Condition(type=READY, status=status, reason=facts.state.name.title(), message=facts.message)


def _reachable(facts: ConditionFacts) -> Condition:
    if facts.silent:
        return Condition(
            type=BACKEND_REACHABLE, status=Status.FALSE, reason="BackendUnreachable", message=facts.message
        )
    return Condition(type=BACKEND_REACHABLE, status=Status.TRUE, reason="Answers")


def _matches(facts: ConditionFacts) -> Condition:
    status, reason, message = Status.UNKNOWN, "", ""
    if facts.silent:
        reason = "BackendUnreachable"
    elif not facts.wanted_digest:
        reason, message = "NotRecorded", "it runs, and how it was deployed is not recorded here"
    elif facts.changing:
        reason = "ChangeUnderWay"
    elif facts.missing:
        status, reason, message = Status.FALSE, COMPONENT_MISSING, f"gone: {', '.join(facts.missing)}"
    elif not facts.runtime_digest and facts.state is not WorkloadState.STOPPED:
        status, reason, message = Status.FALSE, "NothingRuns", "the backend has nothing of it"
    elif facts.runtime_digest in ("", facts.wanted_digest):
        status, reason = Status.TRUE, "AsAskedFor"
    else:
        status, reason, message = Status.FALSE, "Drifted", "what runs was made from other content than was asked for"
    return Condition(type=CONFIG_MATCHES, status=status, reason=reason, message=message)
