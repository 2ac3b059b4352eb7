"""For each row of the flow's table a way to get there: what is given, what its client asks, and how it may end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from services.orchestrator.flow import Outcome
from services.orchestrator.model import Step
from tests.crash.life import AWAY, BROKEN, NEW, NO, OLD, Life

Act: TypeAlias = Callable[[Life], object]
State: TypeAlias = pb.DeploymentState.ValueType

ACTIVE, STOPPED, FAILED = pb.DEPLOYMENT_STATE_ACTIVE, pb.DEPLOYMENT_STATE_STOPPED, pb.DEPLOYMENT_STATE_FAILED
SUCCEEDED, ROLLED_BACK = pb.DEPLOYMENT_STATE_SUCCEEDED, pb.DEPLOYMENT_STATE_ROLLED_BACK

RUNNING, ENDED, BROKE, VANISHED = (
    workload_pb2.WORKLOAD_STATE_RUNNING,
    workload_pb2.WORKLOAD_STATE_SUCCEEDED,
    workload_pb2.WORKLOAD_STATE_FAILED,
    workload_pb2.WORKLOAD_STATE_REMOVED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One way to a row."""

    given: tuple[Act, ...] = ()
    """Done before, one after the other."""
    when: Act
    """What leads to the row: a client's request, asked again after the crash, or what happens behind its back."""
    via: tuple[tuple[str, Act], ...] = ()
    """Points that the orchestrator passes on the way, and what happens while it stands there."""
    ends: Mapping[State, str]
    """The states that it may end in, and the image of its wish then; empty: there is no record any more."""
    asked: bool = True
    """Whether `when` is a client's request."""
    lasting: bool = False
    """What goes wrong goes on going wrong after the crash."""
    changes: int = 1
    """How many changes are accepted from `when` on, however often it is asked."""


def old(life: Life) -> object:
    """The first content."""
    return life.apply(OLD)


def new(life: Life) -> object:
    """Another content."""
    return life.apply(NEW)


def new_or_back(life: Life) -> object:
    """Another content, or the one before."""
    return life.apply(NEW, rollback_on_failure=True)


def new_anywhere(life: Life) -> object:
    """Another content, on the other engine if need be."""
    return life.apply(NEW, falls_back=True)


def new_anywhere_or_back(life: Life) -> object:
    """Another content on any engine, or the one before."""
    return life.apply(NEW, falls_back=True, rollback_on_failure=True)


def scaled(life: Life) -> object:
    """The first content, twice."""
    return life.apply(OLD, replicas=2)


def back(life: Life) -> object:
    """The content before this one."""
    return life.roll_back()


def moved(life: Life) -> object:
    """The first content on the other engine."""
    return life.apply(OLD, engine="right")


def stop(life: Life) -> object:
    """Stopped and kept."""
    return life.stop()


def start(life: Life) -> object:
    """Started again."""
    return life.start()


def restart(life: Life) -> object:
    """Restarted in place."""
    return life.restart()


def delete(life: Life) -> object:
    """Deleted."""
    return life.delete()


CONTROLS = (stop, start, restart)
"""Requests that carry no request_id: whoever was given no answer looks first."""


def left(method: str, code: grpc.StatusCode, *, after: int = 0) -> Act:
    """The engine `left` begins to answer so, `after` so many calls."""
    return lambda life: life.fault("left", method, code, after=after)


def right(method: str, code: grpc.StatusCode, *, after: int = 0) -> Act:
    """The engine `right` does."""
    return lambda life: life.fault("right", method, code, after=after)


def turns(state: workload_pb2.WorkloadState.ValueType) -> Act:
    """What runs turns into this state, or vanishes."""
    return lambda life: life.script(state)


def until(event: str, ask: Act) -> Act:
    """Asked, whatever the answer, and the event is there."""

    def act(life: Life) -> None:
        with life.meanwhile(ask):
            life.await_event(event)

    return act


def left_alone(life: Life) -> object:
    """The first content, not waited for."""
    return life.apply(OLD, wait=Duration())


def state_is(state: State) -> Act:
    """Nothing is done until it is in this state."""
    return lambda life: life.await_state(state)


DEPLOYED = "DEPLOY:DEPLOYED after"
STUCK_FALLBACK = (left("DeployWorkload", AWAY), right("ValidateManifest", AWAY, after=1))
"""`left` fails, `right` would do and then cannot be asked."""
STUCK_SELECTION = (old, left("DeployWorkload", NO), left("ValidateManifest", BROKEN, after=1))
"""The update is refused, and on the way back nobody can be asked."""

SCENES: Mapping[tuple[Step, Outcome], Scene] = {
    (Step.SELECT, Outcome.CHOSEN): Scene(when=old, ends={ACTIVE: OLD}),
    (Step.SELECT, Outcome.CHOSEN_ELSEWHERE): Scene(given=(old,), when=moved, ends={ACTIVE: OLD}),
    (Step.SELECT, Outcome.NO_ENGINE): Scene(given=STUCK_FALLBACK, when=new_anywhere, ends={FAILED: NEW}, lasting=True),
    (Step.SELECT, Outcome.UNREACHABLE): Scene(given=STUCK_SELECTION, when=new_or_back, ends={ROLLED_BACK: OLD}),
    (Step.SELECT, Outcome.ROLL_BACK): Scene(
        given=(old, *STUCK_FALLBACK), when=new_anywhere_or_back, ends={ROLLED_BACK: OLD, ACTIVE: NEW}
    ),
    (Step.FENCE, Outcome.FENCED): Scene(given=(old,), when=moved, ends={ACTIVE: OLD}),
    (Step.FENCE, Outcome.FENCED_FOR_RETRY): Scene(
        given=(left("DeployWorkload", AWAY),), when=new_anywhere, ends={ACTIVE: NEW}
    ),
    (Step.FENCE, Outcome.UNREACHABLE): Scene(given=(old, left("RemoveWorkload", AWAY)), when=moved, ends={ACTIVE: OLD}),
    (Step.DEPLOY, Outcome.DEPLOYED): Scene(given=(old,), when=new, ends={ACTIVE: NEW}),
    (Step.DEPLOY, Outcome.REFUSED): Scene(
        given=(old, left("DeployWorkload", NO)), when=new, ends={FAILED: NEW}, lasting=True
    ),
    (Step.DEPLOY, Outcome.FALL_BACK): Scene(
        given=(left("DeployWorkload", AWAY),), when=new_anywhere, ends={ACTIVE: NEW}
    ),
    (Step.DEPLOY, Outcome.UNREACHABLE): Scene(given=(left("DeployWorkload", AWAY),), when=old, ends={ACTIVE: OLD}),
    (Step.DEPLOY, Outcome.ROLL_BACK): Scene(
        given=(old, left("DeployWorkload", NO)), when=new_or_back, ends={ROLLED_BACK: OLD, ACTIVE: NEW}
    ),
    (Step.SETTLE, Outcome.RUNNING): Scene(when=old, ends={ACTIVE: OLD}),
    (Step.SETTLE, Outcome.SUCCEEDED): Scene(when=old, via=((DEPLOYED, turns(ENDED)),), ends={SUCCEEDED: OLD}),
    (Step.SETTLE, Outcome.BROKEN): Scene(when=old, via=((DEPLOYED, turns(BROKE)),), ends={FAILED: OLD}),
    (Step.SETTLE, Outcome.VANISHED): Scene(when=old, via=((DEPLOYED, turns(VANISHED)),), ends={ACTIVE: OLD}),
    (Step.SETTLE, Outcome.ROLL_BACK): Scene(
        given=(old,), when=new_or_back, via=((DEPLOYED, turns(BROKE)),), ends={ROLLED_BACK: OLD}
    ),
    (Step.STOP, Outcome.STOPPED): Scene(given=(old,), when=stop, ends={STOPPED: OLD}),
    (Step.STOP, Outcome.UNREACHABLE): Scene(given=(old, left("StopWorkload", AWAY)), when=stop, ends={STOPPED: OLD}),
    (Step.STOP, Outcome.REFUSED): Scene(
        given=(old, left("StopWorkload", NO)), when=stop, ends={FAILED: OLD, ACTIVE: OLD}, lasting=True
    ),
    (Step.START, Outcome.STARTED): Scene(given=(old, stop), when=start, ends={ACTIVE: OLD}),
    (Step.START, Outcome.UNREACHABLE): Scene(
        given=(old, stop, left("StartWorkload", AWAY)), when=start, ends={ACTIVE: OLD}
    ),
    (Step.START, Outcome.VANISHED): Scene(given=(old, stop, turns(VANISHED)), when=start, ends={ACTIVE: OLD}),
    (Step.START, Outcome.REFUSED): Scene(
        given=(old, stop, left("StartWorkload", NO)), when=start, ends={FAILED: OLD}, lasting=True
    ),
    (Step.RESTART, Outcome.STARTED): Scene(given=(old,), when=restart, ends={ACTIVE: OLD}),
    (Step.RESTART, Outcome.UNREACHABLE): Scene(
        given=(old, left("RestartWorkload", AWAY)), when=restart, ends={ACTIVE: OLD}
    ),
    (Step.RESTART, Outcome.VANISHED): Scene(
        given=(old,), when=restart, via=(("REST:RESTART after", turns(VANISHED)),), ends={ACTIVE: OLD}
    ),
    (Step.RESTART, Outcome.REFUSED): Scene(
        given=(old, left("RestartWorkload", NO)), when=restart, ends={FAILED: OLD, ACTIVE: OLD}, lasting=True
    ),
    (Step.REMOVE, Outcome.REMOVED): Scene(given=(old,), when=delete, ends={}),
    (Step.REMOVE, Outcome.UNREACHABLE): Scene(given=(old, left("RemoveWorkload", AWAY)), when=delete, ends={}),
    (Step.REST, Outcome.STOP): Scene(given=(old,), when=stop, ends={STOPPED: OLD}),
    (Step.REST, Outcome.START): Scene(given=(old, stop), when=start, ends={ACTIVE: OLD}),
    (Step.REST, Outcome.RESTART): Scene(given=(old,), when=restart, ends={ACTIVE: OLD}),
    (Step.REST, Outcome.REPAIR): Scene(given=(old,), when=turns(VANISHED), asked=False, ends={ACTIVE: OLD}),
    (Step.REST, Outcome.RUNNING): Scene(
        given=(old, turns(BROKE), state_is(FAILED)), when=turns(RUNNING), asked=False, changes=0, ends={ACTIVE: OLD}
    ),
    (Step.REST, Outcome.SUCCEEDED): Scene(
        given=(old,), when=turns(ENDED), asked=False, changes=0, ends={SUCCEEDED: OLD}
    ),
    (Step.REST, Outcome.BROKEN): Scene(given=(old,), when=turns(BROKE), asked=False, changes=0, ends={FAILED: OLD}),
    (Step.REST, Outcome.VANISHED): Scene(given=(old,), when=turns(VANISHED), asked=False, ends={ACTIVE: OLD}),
    (Step.SELECT, Outcome.DELETE): Scene(
        given=(*STUCK_SELECTION, until("SELECTION_DELAYED", new_or_back)), when=delete, ends={}
    ),
    (Step.FENCE, Outcome.DELETE): Scene(
        given=(old, left("RemoveWorkload", AWAY), until("FENCE_DELAYED", moved)), when=delete, ends={}
    ),
    (Step.DEPLOY, Outcome.DELETE): Scene(
        given=(left("DeployWorkload", AWAY), until("DEPLOY_DELAYED", old)), when=delete, ends={}
    ),
    (Step.SETTLE, Outcome.DELETE): Scene(
        given=(left("GetWorkload", AWAY), until("DEPLOYED", left_alone)), when=delete, ends={}
    ),
    (Step.STOP, Outcome.DELETE): Scene(
        given=(old, left("StopWorkload", AWAY), until("STOP_DELAYED", stop)), when=delete, ends={}
    ),
    (Step.START, Outcome.DELETE): Scene(
        given=(old, stop, left("StartWorkload", AWAY), until("START_DELAYED", start)), when=delete, ends={}
    ),
    (Step.RESTART, Outcome.DELETE): Scene(
        given=(old, left("RestartWorkload", AWAY), until("RESTART_DELAYED", restart)), when=delete, ends={}
    ),
    (Step.REST, Outcome.DELETE): Scene(given=(old,), when=delete, ends={}),
}

BESIDES: Mapping[str, Scene] = {
    "DEPLOY:INTENT": Scene(when=old, ends={ACTIVE: OLD}),
    "ANNOUNCE": Scene(when=old, ends={ACTIVE: OLD}),
    "WITHDRAW": Scene(given=(old,), when=delete, ends={}),
}
"""Points that are no row: the engine's name becomes durable before it is called; the provider is told."""

_BACK = Scene(given=(old, new), when=back, ends={ACTIVE: OLD})
ROLLBACK: Mapping[str, Scene] = dict.fromkeys(("SELECT:CHOSEN", "DEPLOY:DEPLOYED", "SETTLE:RUNNING"), _BACK)
"""The rows that a rollback by request goes through."""
