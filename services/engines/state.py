"""A workload's state from what is known of it: pure rules, read from top to bottom, the first that holds decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.engines.engine import Component, Observation, Role, WorkloadState
from services.engines.records import Phase

S = WorkloadState

_ENDED = frozenset({S.SUCCEEDED, S.FAILED, S.STOPPED, S.REJECTED})
_COMING = frozenset({S.PENDING, S.STARTING})
_WHOLE = frozenset({S.RUNNING, S.STARTING, S.SUCCEEDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a state is derived from."""

    observation: Observation | None
    """What the backend has; None: it said that it has nothing."""
    phase: Phase = Phase.DEPLOYED
    busy: bool = False
    """An operation on it is under way."""
    scaled_to_zero: bool = False
    missing: tuple[str, ...] = ()
    """Components that were made and are gone."""


@dataclass(frozen=True, slots=True)
class _Rule:
    holds: Callable[[frozenset[WorkloadState]], bool]
    state: WorkloadState
    message: str = ""


# Over the set of the main components' states.
_RULES = (
    _Rule(lambda s: s <= {S.RUNNING}, S.RUNNING),
    _Rule(lambda s: s <= {S.SUCCEEDED}, S.SUCCEEDED),
    # What has done its work does not make the rest any less whole.
    _Rule(lambda s: s <= {S.RUNNING, S.SUCCEEDED}, S.RUNNING),
    _Rule(lambda s: s <= {S.PENDING}, S.PENDING),
    _Rule(lambda s: s <= {S.RUNNING, S.SUCCEEDED} | _COMING, S.STARTING),
    _Rule(lambda s: s <= {S.UNKNOWN}, S.UNKNOWN, "the backend does not say what its components do"),
    _Rule(lambda s: S.DEGRADED in s, S.DEGRADED),
    _Rule(lambda s: S.RUNNING in s, S.DEGRADED, "not all components run"),
    _Rule(lambda s: S.STOPPING in s, S.STOPPING),
    _Rule(lambda s: bool(s & _COMING), S.STARTING, "not all components started"),
    _Rule(lambda s: S.FAILED in s, S.FAILED),
    _Rule(lambda s: S.REJECTED in s, S.REJECTED),
    _Rule(lambda s: S.STOPPED in s, S.STOPPED),
    _Rule(lambda _: True, S.UNKNOWN, "some components are not known"),
)


def derive(facts: Facts) -> tuple[WorkloadState, str]:
    """The state, and a message where the state alone does not say enough."""
    if facts.phase is Phase.REMOVING:
        return S.STOPPING, "" if facts.busy else "the removal goes on when the backend answers"
    if facts.observation is None or not facts.observation.components:
        return _nothing_runs(facts)
    state, message = _of_components(facts.observation)
    if facts.missing and state in _WHOLE:
        return S.DEGRADED, f"gone: {', '.join(facts.missing)}"
    change = _CHANGING.get(facts.phase)
    return change(state, message, facts) if change else (state, message)


def _nothing_runs(facts: Facts) -> tuple[WorkloadState, str]:
    if facts.phase is Phase.DEPLOYING:
        return (S.PENDING, "") if facts.busy else (S.FAILED, _INTERRUPTED)
    if facts.scaled_to_zero:
        return S.STOPPED, "scaled to zero"
    if facts.phase is Phase.STOPPED:
        return S.STOPPED, ""
    if facts.busy:
        return S.PENDING, ""
    if facts.observation is not None and facts.observation.stopped_on_request:
        return S.STOPPED, ""
    return S.FAILED, "the backend has nothing that runs"


_INTERRUPTED = "its creation was interrupted; deploy it again, or remove it"


def _half_made(state: WorkloadState, _: str, facts: Facts) -> tuple[WorkloadState, str]:
    if facts.busy:
        return (S.PENDING, "") if state is S.PENDING else (S.STARTING, "")
    return (S.DEGRADED if state in {S.RUNNING, S.DEGRADED} else S.FAILED), _INTERRUPTED


def _half_updated(state: WorkloadState, message: str, facts: Facts) -> tuple[WorkloadState, str]:
    if facts.busy:
        return state, message
    return (S.DEGRADED if state is S.RUNNING else state), "its update was interrupted; deploy it again, or remove it"


def _half_stopped(state: WorkloadState, _: str, facts: Facts) -> tuple[WorkloadState, str]:
    return S.STOPPING, "" if facts.busy else "the stop goes on when the backend answers"


def _stopped(state: WorkloadState, message: str, facts: Facts) -> tuple[WorkloadState, str]:
    mains = [c.state for c in facts.observation.components if c.role is Role.MAIN] if facts.observation else []
    if _ENDED | {S.PENDING} >= set(mains):
        return S.STOPPED, ""
    return state, "it was stopped on request, and something else has started it"


def _half_started(state: WorkloadState, message: str, facts: Facts) -> tuple[WorkloadState, str]:
    if not facts.busy:
        return state, "its start goes on when the backend answers"
    return (state, message) if state is S.RUNNING else (S.STARTING, "")


_CHANGING: Mapping[Phase, Callable[[WorkloadState, str, Facts], tuple[WorkloadState, str]]] = {
    Phase.DEPLOYING: _half_made,
    Phase.UPDATING: _half_updated,
    Phase.STOPPING: _half_stopped,
    Phase.STOPPED: _stopped,
    Phase.STARTING: _half_started,
}
"""What a change that is under way, or was cut, makes of the components' state."""


def _of_components(observation: Observation) -> tuple[WorkloadState, str]:
    mains = [c for c in observation.components if c.role is Role.MAIN]
    inits = [c for c in observation.components if c.role is Role.INIT]
    if {c.state for c in mains} <= _COMING and inits and not any(c.ready_once for c in mains):
        return _initializing(inits)
    states = frozenset(_effective(c) for c in mains)
    if observation.stopped_on_request and states <= _ENDED:
        return S.STOPPED, ""
    rule = next(rule for rule in _RULES if rule.holds(states))
    return rule.state, rule.message or _first_message(mains, rule.state)


def _effective(component: Component) -> WorkloadState:
    """What it does for others: not ready it is still starting, or, if it was ready before, missing."""
    if component.state not in {S.RUNNING, S.STARTING} or component.is_ready:
        return component.state
    return S.DEGRADED if component.ready_once else S.STARTING


def _initializing(inits: Sequence[Component]) -> tuple[WorkloadState, str]:
    failed = [c for c in inits if c.state in {S.FAILED, S.REJECTED}]
    if failed:
        return S.FAILED, f"init component {failed[0].display_name} failed" + _because(failed[0])
    return S.STARTING, ""


def _first_message(components: Sequence[Component], state: WorkloadState) -> str:
    """Why, in the words of the first component that is in this state."""
    for component in components:
        if _effective(component) is state and (component.reason or component.message):
            return component.display_name + _because(component)
    return ""


def _because(component: Component) -> str:
    why = " ".join(part for part in (component.reason, component.message) if part)
    return f": {why}" if why else ""
