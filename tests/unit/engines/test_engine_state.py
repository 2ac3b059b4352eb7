"""A workload's state from what its components do."""

from __future__ import annotations

from typing import Any

import pytest

from services.engines.engine import Component, ExitStatus, Observation, Role, WorkloadState
from services.engines.records import Phase
from services.engines.state import Facts, derive
from services.identity import Ownership

S = WorkloadState
OWNERSHIP = Ownership(node_id="a" * 40, deployment_id="web", workload_id="beemesh-web-1", manifest_hash="0" * 16)


def seen(*mains: WorkloadState, inits: tuple[WorkloadState, ...] = (), stopped: bool = False) -> Observation:
    """What a backend has: main and init components in these states."""
    components = [Component(component_id=f"m{n}", display_name=f"m{n}", state=s) for n, s in enumerate(mains)]
    components += [
        Component(component_id=f"i{n}", display_name=f"i{n}", state=s, role=Role.INIT) for n, s in enumerate(inits)
    ]
    return Observation(ownership=OWNERSHIP, components=tuple(components), stopped_on_request=stopped)


@pytest.mark.parametrize(
    ("mains", "expected"),
    [
        ((S.RUNNING,), S.RUNNING),
        ((S.RUNNING, S.RUNNING), S.RUNNING),
        ((S.RUNNING, S.SUCCEEDED), S.RUNNING),
        ((S.SUCCEEDED, S.SUCCEEDED), S.SUCCEEDED),
        ((S.RUNNING, S.FAILED), S.DEGRADED),
        ((S.RUNNING, S.STOPPED), S.DEGRADED),
        ((S.RUNNING, S.UNKNOWN), S.DEGRADED),
        ((S.RUNNING, S.REJECTED), S.DEGRADED),
        ((S.RUNNING, S.STARTING), S.STARTING),
        ((S.RUNNING, S.PENDING), S.STARTING),
        ((S.SUCCEEDED, S.STARTING), S.STARTING),
        ((S.PENDING, S.PENDING), S.PENDING),
        ((S.PENDING, S.STARTING), S.STARTING),
        ((S.FAILED, S.STARTING), S.STARTING),
        ((S.FAILED,), S.FAILED),
        ((S.FAILED, S.SUCCEEDED), S.FAILED),
        ((S.FAILED, S.STOPPED), S.FAILED),
        ((S.REJECTED,), S.REJECTED),
        ((S.REJECTED, S.SUCCEEDED), S.REJECTED),
        ((S.STOPPED,), S.STOPPED),
        ((S.STOPPED, S.SUCCEEDED), S.STOPPED),
        ((S.STOPPING, S.STOPPED), S.STOPPING),
        ((S.STOPPING, S.FAILED), S.STOPPING),
        ((S.UNKNOWN,), S.UNKNOWN),
        ((S.UNKNOWN, S.SUCCEEDED), S.UNKNOWN),
    ],
)
def test_main_components_decide(mains: tuple[WorkloadState, ...], expected: WorkloadState) -> None:
    """The set of the main components' states decides, whatever their order."""
    assert derive(Facts(observation=seen(*mains)))[0] is expected
    assert derive(Facts(observation=seen(*reversed(mains))))[0] is expected


@pytest.mark.parametrize(
    ("mains", "inits", "expected"),
    [
        ((S.PENDING,), (S.RUNNING,), S.STARTING),
        ((S.PENDING,), (S.SUCCEEDED,), S.STARTING),
        ((), (S.RUNNING,), S.STARTING),
        ((S.PENDING,), (S.FAILED,), S.FAILED),
        ((), (S.SUCCEEDED, S.FAILED), S.FAILED),
        ((S.RUNNING,), (S.SUCCEEDED,), S.RUNNING),
        ((S.RUNNING,), (S.FAILED,), S.RUNNING),
    ],
)
def test_init_components_count_until_the_main_ones_run(
    mains: tuple[WorkloadState, ...], inits: tuple[WorkloadState, ...], expected: WorkloadState
) -> None:
    """While no main component has run, a failed init component is the workload's failure; afterwards it is history."""
    assert derive(Facts(observation=seen(*mains, inits=inits)))[0] is expected


def part(state: WorkloadState, **facts: Any) -> Component:
    """A main component."""
    return Component(component_id="m", display_name="main", state=state, **facts)


@pytest.mark.parametrize(
    ("mains", "expected"),
    [
        ((part(S.RUNNING, ready=True),), S.RUNNING),
        ((part(S.RUNNING, ready=False),), S.STARTING),
        ((part(S.RUNNING, ready=False, ready_once=True),), S.DEGRADED),
        ((part(S.RUNNING, ready=True), part(S.RUNNING, ready=False)), S.STARTING),
        ((part(S.RUNNING, ready=True), part(S.RUNNING, ready=False, ready_once=True)), S.DEGRADED),
        ((part(S.STARTING),), S.STARTING),
        ((part(S.STARTING, ready_once=True),), S.DEGRADED),
        ((part(S.STARTING, ready_once=True), part(S.RUNNING)), S.DEGRADED),
        ((part(S.DEGRADED),), S.DEGRADED),
        ((part(S.SUCCEEDED, ready=False), part(S.RUNNING)), S.RUNNING),
    ],
)
def test_who_is_not_ready_is_starting_until_it_was_ready_once(
    mains: tuple[Component, ...], expected: WorkloadState
) -> None:
    """A component that is not ready, or waits for its restart, is starting; was it ready before, it is missing."""
    assert derive(Facts(observation=Observation(ownership=OWNERSHIP, components=mains)))[0] is expected


def test_why_a_component_is_not_ready_is_told() -> None:
    """The message of a workload that is not ready is that of its component."""
    mains = (part(S.RUNNING, ready=True), part(S.RUNNING, ready=False, reason="NotReady", message="refused"))
    assert derive(Facts(observation=Observation(ownership=OWNERSHIP, components=mains))) == (
        S.STARTING,
        "main: NotReady refused",
    )


@pytest.mark.parametrize("ended", [S.SUCCEEDED, S.FAILED, S.STOPPED])
def test_what_was_stopped_on_request_is_stopped(ended: WorkloadState) -> None:
    """Stopped on request, its exit codes do not make it SUCCEEDED or FAILED."""
    assert derive(Facts(observation=seen(ended, stopped=True)))[0] is S.STOPPED


def test_a_stopped_workload_that_runs_again_is_running() -> None:
    """What runs is RUNNING, whatever was requested once."""
    assert derive(Facts(observation=seen(S.RUNNING, stopped=True)))[0] is S.RUNNING


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(observation=None, phase=Phase.DEPLOYING, busy=True), S.PENDING),
        (Facts(observation=seen(), phase=Phase.DEPLOYING, busy=True), S.PENDING),
        (Facts(observation=seen(S.RUNNING), phase=Phase.DEPLOYING, busy=True), S.STARTING),
        (Facts(observation=seen(S.PENDING), phase=Phase.DEPLOYING, busy=True), S.PENDING),
        (Facts(observation=None, phase=Phase.DEPLOYING), S.FAILED),
        (Facts(observation=seen(S.RUNNING), phase=Phase.DEPLOYING), S.DEGRADED),
        (Facts(observation=seen(S.STOPPED), phase=Phase.DEPLOYING), S.FAILED),
        (Facts(observation=seen(S.RUNNING), phase=Phase.REMOVING, busy=True), S.STOPPING),
        (Facts(observation=None, phase=Phase.REMOVING), S.STOPPING),
        (Facts(observation=None, scaled_to_zero=True), S.STOPPED),
        (Facts(observation=seen(), scaled_to_zero=True), S.STOPPED),
        (Facts(observation=seen()), S.FAILED),
        (Facts(observation=seen(stopped=True)), S.STOPPED),
    ],
)
def test_what_is_under_way_or_was_cut_shows(facts: Facts, expected: WorkloadState) -> None:
    """A deploy under way is PENDING or STARTING, one that was cut is never RUNNING, a removal is STOPPING."""
    assert derive(facts)[0] is expected


def test_a_failure_is_told_in_the_words_of_the_component() -> None:
    """The message names the component and its reason."""
    component = Component(
        component_id="c",
        display_name="db",
        state=S.FAILED,
        reason="OOMKilled",
        message="killed at 64 MiB",
        exit_status=ExitStatus(exit_code=137, oom_killed=True),
    )
    observation = Observation(ownership=OWNERSHIP, components=(component,))
    assert derive(Facts(observation=observation)) == (S.FAILED, "db: OOMKilled killed at 64 MiB")
