"""Restart policies, back-off and the counters that outlive us."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.restarts import (
    AwaitInit,
    BackOff,
    Exit,
    History,
    InitFailed,
    InitRun,
    InitsDone,
    InitStep,
    Policy,
    Restart,
    StartInit,
    Stay,
    decide,
    next_init,
    policy_of,
)

NOW = 1_000_000.0
NEW = History()


def ended(code: int = 1, *, after: float = 1.0, at: float = NOW, unhealthy: bool = False) -> Exit:
    """A run that ended at `at` and had taken `after` seconds."""
    return Exit(exit_code=code, start_time=at - after, finish_time=at, unhealthy=unhealthy)


@pytest.mark.parametrize(
    ("policy", "code", "unhealthy", "restarts"),
    [
        (Policy.ALWAYS, 0, False, True),
        (Policy.ALWAYS, 1, False, True),
        (Policy.ON_FAILURE, 0, False, False),
        (Policy.ON_FAILURE, 137, False, True),
        (Policy.ON_FAILURE, 0, True, True),
        (Policy.NEVER, 0, False, False),
        (Policy.NEVER, 1, False, False),
        (Policy.NEVER, 0, True, False),
    ],
)
def test_the_policy_says_whether(policy: Policy, code: int, unhealthy: bool, restarts: bool) -> None:
    """A container that was stopped because a probe failed has failed, whatever it exits with."""
    decision = decide(policy, ended(code, unhealthy=unhealthy), NEW, now=NOW)
    assert isinstance(decision, Restart) is restarts
    if isinstance(decision, Stay):
        assert decision.failed is (code != 0 or unhealthy)


def test_a_pods_policy_is_always_unless_it_says_otherwise() -> None:
    """As in Kubernetes."""
    assert policy_of({}) is Policy.ALWAYS
    assert policy_of({"restartPolicy": "OnFailure"}) is Policy.ON_FAILURE


def crash(times: int, *, ran: float = 1.0, back_off: BackOff | None = None) -> tuple[list[float], History]:
    """Crash so often, each restart on time; the waits and the history."""
    history, now, waits = NEW, NOW, []
    for _ in range(times):
        decision = decide(Policy.ALWAYS, ended(at=now, after=ran), history, now=now, back_off=back_off)
        assert isinstance(decision, Restart)
        assert decision.at == now + decision.delay
        waits.append(decision.delay)
        history = history.restarted(ended(at=now, after=ran), now=decision.at, back_off=back_off or BackOff())
        now = decision.at + ran
    return waits, history


def test_the_first_restart_is_immediate_and_then_the_wait_doubles_to_its_cap() -> None:
    """0, 10, 20, 40 … 300 s, and each restart is counted."""
    waits, history = crash(9)
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    assert history.restart_count == 9


def test_base_and_cap_are_settings() -> None:
    """Also a cap below the base."""
    assert crash(5, back_off=BackOff(base=1, cap=3))[0] == [0, 1, 2, 3, 3]
    assert crash(3, back_off=BackOff(base=10, cap=2))[0] == [0, 2, 2]


@pytest.mark.parametrize(("ran", "delay"), [(599.0, 80.0), (600.0, 0.0)])
def test_a_run_of_ten_minutes_forgets_the_back_off(ran: float, delay: float) -> None:
    """The next restart is immediate, the one after it waits 10 s again; the count goes on."""
    _, history = crash(4)
    exit_ = ended(after=ran)
    decision = decide(Policy.ALWAYS, exit_, history, now=NOW)
    assert decision == Restart(at=NOW + delay, delay=delay)
    history = history.restarted(exit_, now=NOW, back_off=BackOff())
    assert history.restart_count == 5
    assert history.next_delay == (160.0 if delay else 10.0)


def test_where_the_start_is_not_known_the_run_began_with_its_restart() -> None:
    """Not all backends keep it."""
    history = History(restart_count=3, next_delay=40.0, restart_time=NOW)
    short = Exit(exit_code=1, finish_time=NOW + 5)
    long = Exit(exit_code=1, finish_time=NOW + 700)
    assert decide(Policy.ALWAYS, short, history, now=NOW + 5) == Restart(at=NOW + 45, delay=40)
    assert decide(Policy.ALWAYS, long, history, now=NOW + 700) == Restart(at=NOW + 700, delay=0)


def test_a_wait_that_is_over_is_not_waited_again() -> None:
    """It counts from the container's end, which may be long ago when we were down."""
    history = History(restart_count=2, next_delay=20.0)
    assert decide(Policy.ALWAYS, ended(at=NOW - 8), history, now=NOW) == Restart(at=NOW + 12, delay=20)
    assert decide(Policy.ALWAYS, ended(at=NOW - 500), history, now=NOW) == Restart(at=NOW, delay=20)


def test_a_clock_that_was_set_back_does_not_prolong_the_wait() -> None:
    """An end that lies in the future is taken for now."""
    history = History(restart_count=2, next_delay=20.0)
    assert decide(Policy.ALWAYS, ended(at=NOW + 86_400), history, now=NOW) == Restart(at=NOW + 20, delay=20)


def test_an_exit_that_is_not_followed_by_a_restart_is_kept_too() -> None:
    """The count stays."""
    _, history = crash(2)
    last = ended(0)
    assert history.stayed(last).last_exit == last
    assert history.stayed(last).restart_count == 2


@given(
    st.builds(
        History,
        restart_count=st.integers(0, 10**9),
        next_delay=st.floats(0, 300),
        restart_time=st.none() | st.floats(0, 2e9),
        last_exit=st.none()
        | st.builds(
            Exit,
            exit_code=st.integers(0, 255),
            reason=st.text(),
            start_time=st.none() | st.floats(0, 2e9),
            finish_time=st.floats(0, 2e9),
            unhealthy=st.booleans(),
        ),
    )
)
def test_a_history_is_read_back_as_it_was_written(history: History) -> None:
    """It outlives the service."""
    assert msgspec.json.decode(msgspec.json.encode(history), type=History) == history


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 100)), max_size=20))
def test_whatever_happens_the_waits_follow_the_runs(runs: list[tuple[float, float]]) -> None:
    """After a long run 0, else twice the last wait within base and cap; never before now."""
    history, now, before = NEW, NOW, None
    for ran, overslept in runs:
        exit_ = ended(at=now + ran, after=ran)
        now = exit_.finish_time + overslept
        decision = decide(Policy.ALWAYS, exit_, history, now=now)
        assert isinstance(decision, Restart)
        if before is None or exit_.finish_time - (exit_.start_time or 0) >= 600:
            expected = 0.0
        else:
            expected = min(300.0, max(10.0, before * 2))
        assert decision.delay == expected
        assert decision.at == max(now, exit_.finish_time + expected)
        history, before, now = history.restarted(exit_, now=decision.at, back_off=BackOff()), expected, decision.at
    assert history.restart_count == len(runs)


def test_init_containers_run_one_after_the_other() -> None:
    """Each must exit 0 before the next; then the containers may start."""
    waiting, running, done = InitRun(), InitRun(running=True), InitRun(exit=ended(0))
    steps: list[tuple[list[InitRun], InitStep]] = [
        ([], InitsDone()),
        ([waiting, waiting], StartInit(index=0, at=NOW, restart=False)),
        ([running, waiting], AwaitInit(index=0)),
        ([done, waiting], StartInit(index=1, at=NOW, restart=False)),
        ([done, running], AwaitInit(index=1)),
        ([done, done], InitsDone()),
    ]
    for runs, step in steps:
        for policy in Policy:
            assert next_init(policy, runs, now=NOW) == step


@pytest.mark.parametrize("policy", [Policy.ALWAYS, Policy.ON_FAILURE])
def test_an_init_container_that_fails_is_restarted_with_back_off(policy: Policy) -> None:
    """Also where the pod's policy is Always, under which one that exits 0 is done."""
    runs = [InitRun(exit=ended(0)), InitRun(exit=ended(1), history=History(restart_count=1, next_delay=10.0))]
    assert next_init(policy, runs, now=NOW) == StartInit(index=1, at=NOW + 10, restart=True)


def test_where_nothing_is_restarted_a_failed_init_container_fails_the_pod() -> None:
    """Its containers are never started."""
    runs = [InitRun(exit=ended(0)), InitRun(exit=ended(3)), InitRun()]
    assert next_init(Policy.NEVER, runs, now=NOW) == InitFailed(index=1)
