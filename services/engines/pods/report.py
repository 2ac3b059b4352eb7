"""What callers are told of a supervised container: the backend's word, restarts, readiness and reasons added. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.engines.engine import Component, ExitStatus, WorkloadState
from services.engines.pods.memory import Remembered
from services.engines.probes import Standing
from services.engines.restarts import Exit

CRASH_LOOP = "CrashLoopBackOff"
RESTARTING = "Restarting"
NOT_READY = "NotReady"

_MAX_PROBLEM = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the supervisor knows of one container."""

    known: Remembered
    run: str
    """The run that the backend was last seen to have."""
    standing: Standing | None
    """None: its probes are not run, since it does not run or is being ended."""
    is_down: bool
    """It is being ended, or is to stay so."""
    problem: str
    """Why the last try to start it failed."""


def report(component: Component, facts: Facts) -> Component:
    """The component as callers see it."""
    known, history = facts.known, facts.known.history
    waits = known.due is not None and known.ended_run == facts.run
    told = replace(
        component,
        restart_count=history.restart_count - waits,
        last_exit=_status(history.last_exit) if history.last_exit and history.restart_count else None,
        ready_once=known.ready_once,
    )
    if component.state is WorkloadState.RUNNING:
        return _running(told, facts)
    if component.exit_status is None or history.last_exit is None or known.ended_run != facts.run:
        return told
    last = history.last_exit
    told = replace(told, exit_status=replace(component.exit_status, reason=last.reason, message=last.message))
    return _stays(told, history.last_exit, facts) if known.delay is None or facts.is_down else _waits(told, facts)


def _running(told: Component, facts: Facts) -> Component:
    if facts.standing is None:
        return replace(told, ready=False, reason=NOT_READY, message="it is being ended") if facts.is_down else told
    told = replace(told, ready=facts.standing.ready, started=facts.standing.started)
    if facts.standing.ready:
        return told
    return replace(told, reason=NOT_READY, message=facts.standing.message or "its probes have not succeeded yet")


def _stays(told: Component, exit_: Exit, facts: Facts) -> Component:
    if exit_.unhealthy and not facts.is_down:
        return replace(told, state=WorkloadState.FAILED, reason=exit_.reason)
    return told


def _waits(told: Component, facts: Facts) -> Component:
    """It is started again, at once or after a while."""
    delay, exit_ = facts.known.delay or 0.0, facts.known.history.last_exit
    how = f"the last run ended with {exit_.exit_code} ({_why(exit_)})" if exit_ else ""
    if facts.problem:
        how += f"; it could not be started: {facts.problem[:_MAX_PROBLEM]}"
    elif delay <= 0:
        return replace(told, state=WorkloadState.STARTING, reason=RESTARTING, message=how)
    message = f"restarts after a back-off of {delay:g} s; {how}"
    return replace(told, state=WorkloadState.STARTING, reason=CRASH_LOOP, message=message)


def _why(exit_: Exit) -> str:
    return ": ".join(word for word in (exit_.reason, exit_.message) if word)


def _status(exit_: Exit) -> ExitStatus:
    return ExitStatus(
        exit_code=exit_.exit_code,
        oom_killed=exit_.reason == "OOMKilled",
        finish_time=exit_.finish_time,
        reason=exit_.reason,
        message=exit_.message,
    )
