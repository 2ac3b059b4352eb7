"""How long a node waits before it starts a service again."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.node.restart import STEADY_SECONDS, STEPS, TELL_AFTER, Backoff


def after(*uptimes: float) -> Backoff:
    """The back-off of a service that ended after each of these uptimes."""
    backoff = Backoff()
    for uptime in uptimes:
        backoff = backoff.after(uptime)
    return backoff


def test_the_first_restart_is_quick() -> None:
    """A service that ends once is back within a fraction of a second."""
    assert after(100.0).delay == after(0.0).delay == STEPS[0] < 0.5


def test_failures_in_a_row_wait_longer_and_longer() -> None:
    """Each quick failure waits longer than the one before, up to the last step of the table."""
    delays = [after(*[0.1] * count).delay for count in range(1, len(STEPS) + 3)]
    assert delays == [*STEPS, STEPS[-1], STEPS[-1]]
    assert all(a < b for a, b in itertools.pairwise(STEPS))


def test_a_steady_run_is_forgiven_its_past() -> None:
    """A service that was up for half a minute begins the table anew."""
    assert after(0.1, 0.1, 0.1, 0.1, STEADY_SECONDS).delay == STEPS[0]


def test_a_run_that_is_nearly_steady_is_not() -> None:
    """Just under half a minute counts as one more failure in the row."""
    assert after(0.1, STEADY_SECONDS - 0.01).delay == STEPS[1]


def test_an_operator_is_told_after_three() -> None:
    """Only several failures in a row are said to be hopeless."""
    assert [after(*[0.1] * count).hopeless for count in (1, TELL_AFTER - 1, TELL_AFTER)] == [False, False, True]


@given(st.lists(st.floats(min_value=0, max_value=1e6), max_size=50))
def test_no_history_waits_without_bound(uptimes: list[float]) -> None:
    """Whatever happened, the wait is one of the table's."""
    assert after(*uptimes).delay in STEPS
