"""The flow's table: every row leads on, and every life ends at rest or gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services import errors
from services.orchestrator import flow
from services.orchestrator.flow import TABLE, Outcome
from services.orchestrator.model import Config, Deployment, Failure, State, Step, Wish

WISH = Wish(manifest="", format=1, kinds=("Pod",), canonical_digest="sha256:0", config=Config(), annotations={})
RECORD = Deployment(
    deployment_id="web", workload_id="w", wish=WISH, state=State.PENDING, step=Step.SELECT, create_time=0, update_time=0
)
WHY = Failure(code=14, reason="BACKEND_UNREACHABLE", message="down")


def test_from_every_step_rest_or_gone_can_be_reached() -> None:
    """No step is a trap."""
    reach = {Step.REST, Step.GONE}
    while True:
        more = {step for (step, _), row in TABLE.items() if row.step in reach} - reach
        if not more:
            break
        reach |= more
    assert reach == set(Step)


def test_a_deletion_is_accepted_in_every_step_but_its_own() -> None:
    """DELETE leads to REMOVE from everywhere."""
    for step in set(Step) - {Step.REMOVE, Step.GONE}:
        assert TABLE[step, Outcome.DELETE].step is Step.REMOVE


def test_deploy_is_entered_only_from_a_choice_a_fence_or_a_loss() -> None:
    """No row leads to DEPLOY from a failed attempt but through FENCE."""
    entries = {(step, outcome) for (step, outcome), row in TABLE.items() if row.step is Step.DEPLOY}
    assert entries == {
        (Step.SELECT, Outcome.CHOSEN),
        (Step.FENCE, Outcome.FENCED),
        (Step.SETTLE, Outcome.VANISHED),
        (Step.START, Outcome.VANISHED),
        (Step.RESTART, Outcome.VANISHED),
        (Step.DEPLOY, Outcome.UNREACHABLE),
    }


def test_trying_later_counts_and_going_on_clears_the_count() -> None:
    """`retries` grows while a step waits and is 0 after it."""
    waiting = replace(RECORD, step=Step.DEPLOY)
    for number in (1, 2, 3):
        waiting = flow.advance(waiting, Outcome.UNREACHABLE, now=1, failure=WHY)
        assert (waiting.step, waiting.state, waiting.retries) == (Step.DEPLOY, State.DEGRADED, number)
    done = flow.advance(waiting, Outcome.DEPLOYED, now=2)
    assert (done.step, done.retries, done.failure) == (Step.SETTLE, 0, WHY)
    rest = flow.advance(done, Outcome.RUNNING, now=3)
    assert (rest.state, rest.failure, rest.observed_generation) == (State.ACTIVE, None, rest.generation)


def test_an_outcome_that_a_step_cannot_have_is_a_defect() -> None:
    """The table has no row for it."""
    with pytest.raises(KeyError):
        flow.advance(RECORD, Outcome.REMOVED, now=1)


@pytest.mark.parametrize(
    ("error", "falls_back", "uncertain"),
    [
        (errors.Unavailable("", reason="BACKEND_UNREACHABLE"), True, True),
        (errors.DeadlineExceeded("", reason="BACKEND_TIMEOUT"), True, True),
        (errors.Internal("", reason="BACKEND_ERROR"), True, True),
        (errors.ResourceExhausted("", reason="DISK_FULL"), True, False),
        (errors.FailedPrecondition("", reason="UNSUPPORTED_FIELD"), True, False),
        (errors.FailedPrecondition("", reason="ENGINE_DRAINING"), True, False),
        (errors.FailedPrecondition("", reason="PORT_IN_USE"), False, False),
        (errors.FailedPrecondition("", reason="IMAGE_NOT_FOUND"), False, False),
        (errors.FailedPrecondition("", reason="IMAGE_DENIED"), False, False),
        (errors.InvalidArgument("", reason="MANIFEST_INVALID"), False, False),
        (errors.AlreadyExists("", reason="WORKLOAD_EXISTS"), False, False),
        (errors.FailedPrecondition("", reason="IMAGE_NOT_FOUND", metadata={"leftovers": "true"}), True, True),
    ],
)
def test_the_failure_table_says_what_may_be_tried_elsewhere(
    error: errors.BeemeshError, falls_back: bool, uncertain: bool
) -> None:
    """Only failures of the engine fall back, and unknown outcomes only fenced."""
    assert (flow.may_fall_back(error), flow.is_uncertain(error)) == (falls_back, uncertain)


def test_the_back_off_grows_to_its_bound() -> None:
    """Half a second first, never more than thirty."""
    waits = [flow.backoff(retries) for retries in range(1, 40)]
    assert waits[0] == 0.5
    assert waits == sorted(waits)
    assert waits[-1] == 30.0
