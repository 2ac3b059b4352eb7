"""Performing one step of the flow: ask the engines, and say in the table's words what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from services.errors import BeemeshError, Code, FailedPrecondition, NotFound, Unavailable
from services.identity import hash_label
from services.orchestrator import flow, selection
from services.orchestrator.book import Book
from services.orchestrator.flow import Outcome
from services.orchestrator.model import (
    Action,
    Attempt,
    Candidate,
    Decision,
    Deployment,
    Failure,
    Observed,
    Policy,
    Step,
    Verdict,
    Wish,
)
from services.orchestrator.outbox import Outbox
from services.orchestrator.ports import Engines

PENDING, STARTING, RUNNING, DEGRADED, STOPPING, STOPPED, SUCCEEDED, FAILED = range(1, 9)
UNKNOWN = 11
"""The numbers of beemesh.engine.v1.WorkloadState that the flow looks at."""

_WITHDRAW_SECONDS = 2.0
_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The record with what was learned, and the outcome that moves it on."""

    record: Deployment
    outcome: Outcome
    failure: Failure | None = None


async def choose(
    engines: Engines, wish: Wish, *, current: str = "", excluded: Sequence[str] = (), ask_all: bool = False
) -> Decision:
    """The decision for a wish: candidates in order, each eligible one asked until one accepts, or all of them."""
    found = list(
        selection.candidates(wish, engines.views(), default=engines.default(), current=current, excluded=excluded)
    )
    for place, candidate in enumerate(found):
        if candidate.verdict is not Verdict.ELIGIBLE:
            continue
        found[place] = await _ask(engines, candidate, wish)
        if found[place].verdict is Verdict.ELIGIBLE and not ask_all:
            break
    return selection.decide(found)


async def _ask(engines: Engines, candidate: Candidate, wish: Wish) -> Candidate:
    warn = wish.warn or wish.policy is Policy.ANY
    try:
        issues = await engines.validate(candidate.engine_id, wish, warn=warn)
    except BeemeshError as error:
        if error.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            raise
        return replace(candidate, verdict=Verdict.REJECTED, reason="ENGINE_UNREACHABLE", message=error.message)
    return selection.accepted(candidate, issues)


class Steps:
    """One method a step; `perform` is the only door. Nothing here writes but through `keep`."""

    def __init__(
        self,
        *,
        engines: Engines,
        book: Book,
        outbox: Outbox,
        keep: Callable[[Deployment], Awaitable[Deployment]],
        clock: Callable[[], float],
    ) -> None:
        """`keep` makes a record durable; `clock` gives seconds since 1970."""
        self._engines = engines
        self._book = book
        self._outbox = outbox
        self._keep = keep
        self._clock = clock

    async def perform(self, record: Deployment) -> Result:
        """Do what `record.step` says, once; a failure that a step does not expect is tried again later."""
        try:
            return await self._perform(record)
        except BeemeshError as error:
            return Result(record=record, outcome=Outcome.UNREACHABLE, failure=Failure.of(error))

    async def _perform(self, record: Deployment) -> Result:
        match record.step:
            case Step.SELECT:
                return await self._select(record)
            case Step.FENCE:
                return await self._fence(record)
            case Step.DEPLOY:
                return await self._deploy(record)
            case Step.SETTLE:
                return await self._settle(record)
            case Step.STOP | Step.START | Step.RESTART:
                return await self._control(record)
            case Step.REMOVE:
                return await self._remove(record)
            case Step.REST | Step.GONE:
                raise FailedPrecondition("nothing is to be done at rest", reason="NOT_IN_FLIGHT")

    async def _select(self, record: Deployment) -> Result:
        current = record.touched[0] if record.touched else ""
        decision = await choose(self._engines, record.wish, current=current, excluded=record.tried)
        return self.chosen(record, _with_failed(decision, record))

    def chosen(self, record: Deployment, decision: Decision) -> Result:
        """The record with a decision taken, and whether another engine must be emptied first."""
        selected = decision.selected
        if selected is None:
            failure = record.failure or Failure.of(selection.refusal(decision, record.wish))
            return Result(record=replace(record, decision=decision), outcome=Outcome.NO_ENGINE, failure=failure)
        record = replace(record, decision=decision, engine_id=selected.engine_id)
        elsewhere = set(record.touched) - {selected.engine_id}
        return Result(record=record, outcome=Outcome.CHOSEN_ELSEWHERE if elsewhere else Outcome.CHOSEN)

    async def _fence(self, record: Deployment) -> Result:
        """Have every engine but the chosen one confirm that it holds nothing; each word given counts."""
        record, failure = await self._empty(record, keep=record.engine_id, remove_volumes=False, force=False)
        if failure is not None:
            return Result(record=record, outcome=Outcome.UNREACHABLE, failure=failure)
        if record.engine_id:
            return Result(record=record, outcome=Outcome.FENCED)
        # A fence that had to wait for a backend to return lets that backend be a candidate again.
        tried = () if record.retries else record.tried
        return Result(record=replace(record, tried=tried), outcome=Outcome.FENCED_FOR_RETRY)

    async def _empty(
        self, record: Deployment, *, keep: str, remove_volumes: bool, force: bool
    ) -> tuple[Deployment, Failure | None]:
        failure: Failure | None = None
        kept = record.volumes_on if remove_volumes else ()
        for engine_id in dict.fromkeys((*record.touched, *kept)):
            if engine_id == keep:
                continue
            try:
                await self._engines.remove(engine_id, record.workload_id, remove_volumes=remove_volumes, force=force)
            except BeemeshError as error:
                failure = Failure.of(error)
                continue
            record = _emptied(record, engine_id, with_volumes=remove_volumes)
        return record, failure

    async def _deploy(self, record: Deployment) -> Result:
        attempt = Attempt(engine_id=record.engine_id, workload_id=record.workload_id, start_time=self._clock())
        if not record.attempts or record.attempts[-1].engine_id != record.engine_id or record.attempts[-1].fenced:
            record = replace(record, attempts=(*record.attempts[-7:], attempt))
        if record.engine_id not in record.touched:
            record = replace(record, touched=(*record.touched, record.engine_id))
        record = await self._keep(record)
        try:
            seen = await self._engines.deploy(record.engine_id, record)
        except BeemeshError as error:
            return await self._deploy_failed(_attempted(record, self._clock(), Failure.of(error)), error)
        record = replace(_attempted(record, self._clock(), None), deployed=hash_label(seen.digest))
        if seen.action in (Action.UPDATE_IN_PLACE, Action.REPLACE):
            record = replace(record, action=Action(seen.action))  # how the engine did it beats how it was foreseen
        return Result(record=record, outcome=Outcome.DEPLOYED)

    async def _deploy_failed(self, record: Deployment, error: BeemeshError) -> Result:
        failure = Failure.of(error)
        if error.code is Code.ABORTED:  # the engine is still at an earlier operation on this workload
            return Result(record=record, outcome=Outcome.UNREACHABLE, failure=failure)
        if flow.may_fall_back(error):
            tried = (*record.tried, record.engine_id)
            decision = await choose(self._engines, record.wish, excluded=tried)
            if decision.selected is not None:
                moved = replace(record, tried=tried, engine_id="", decision=_with_failed(decision, record))
                return Result(record=moved, outcome=Outcome.FALL_BACK, failure=failure)
        exhausted = error.code is Code.INTERNAL and record.retries >= flow.INTERNAL_TRIES
        if flow.is_uncertain(error) and not exhausted:
            return Result(record=record, outcome=Outcome.UNREACHABLE, failure=failure)
        return Result(record=await self._refused(record), outcome=Outcome.REFUSED, failure=failure)

    async def _refused(self, record: Deployment) -> Deployment:
        """The engine said no: it holds nothing of this, unless an earlier revision still runs there."""
        try:
            left = await self._engines.fetch(record.engine_id, record.workload_id)
        except BeemeshError:
            return record  # it stays in `touched`: a later delete or apply will ask again
        if left is not None:
            return record
        return _emptied(record, record.engine_id, with_volumes=False)

    async def _settle(self, record: Deployment) -> Result:
        """Wait until the engine says that the workload runs, ended, broke or is not there."""
        while True:
            try:
                seen = await self._engines.fetch(record.engine_id, record.workload_id)
            except BeemeshError:
                await self._engines.wait_changed(record.workload_id, _LOOK_SECONDS)
                continue
            outcome = outcome_of(record, seen)
            if outcome is not None:
                message = seen.message if seen is not None else ""
                failure = broken(record, message) if outcome is Outcome.BROKEN else None
                return Result(record=replace(record, message=message), outcome=outcome, failure=failure)
            await self._engines.wait_changed(record.workload_id, _LOOK_SECONDS)

    async def _control(self, record: Deployment) -> Result:
        """Stop, start or restart in place; what is not there is made anew, or was stopped for good."""
        engine_id, workload_id, grace = record.engine_id, record.workload_id, record.grace_seconds
        try:
            if record.step is Step.STOP:
                await self._engines.stop(engine_id, workload_id, grace_seconds=grace)
            elif record.step is Step.START:
                await self._engines.start(engine_id, workload_id)
            else:
                await self._engines.restart(engine_id, workload_id, grace_seconds=grace)
        except NotFound:
            outcome = Outcome.STOPPED if record.step is Step.STOP else Outcome.VANISHED
            return Result(record=record, outcome=outcome)
        except BeemeshError as error:
            if flow.is_uncertain(error) or error.code is Code.ABORTED:
                raise
            return Result(record=record, outcome=Outcome.REFUSED, failure=Failure.of(error))
        return Result(record=record, outcome=Outcome.STOPPED if record.step is Step.STOP else Outcome.STARTED)

    async def _remove(self, record: Deployment) -> Result:
        record, failure = await self._empty(record, keep="", remove_volumes=record.remove_volumes, force=record.force)
        if failure is not None and not record.force:
            return Result(record=record, outcome=Outcome.UNREACHABLE, failure=failure)
        await self._outbox.withdrawn(record.deployment_id, _WITHDRAW_SECONDS)  # else the outbox goes on by itself
        return Result(record=record, outcome=Outcome.REMOVED)


def outcome_of(record: Deployment, seen: Observed | None) -> Outcome | None:
    """What the state of a deployment's workload (None: not there) means for the flow; None: nothing yet."""
    if seen is None:
        return Outcome.VANISHED
    if seen.state == STOPPED and record.wish.scaled_to_zero:
        return Outcome.RUNNING  # all of nothing
    return {RUNNING: Outcome.RUNNING, SUCCEEDED: Outcome.SUCCEEDED, FAILED: Outcome.BROKEN}.get(seen.state)


def broken(record: Deployment, message: str, *, gone: bool = False) -> Failure:
    """Why a started workload is FAILED: it broke, or it is gone."""
    why = message or "the engine gave no reason"
    return Failure.of(
        FailedPrecondition(
            f"deployment {record.deployment_id!r} was started on {record.engine_id} and failed: {why}",
            reason="WORKLOAD_GONE" if gone else "WORKLOAD_FAILED",
            metadata={"engine": record.engine_id, "workload_id": record.workload_id},
        )
    )


def unreachable(engine_id: str) -> Unavailable:
    """The error for an engine that is not registered (any more)."""
    return Unavailable(
        f"engine {engine_id!r} cannot be reached",
        reason="ENGINE_UNREACHABLE",
        metadata={"engine": engine_id},
        retry_after=1.0,
    )


def _emptied(record: Deployment, engine_id: str, *, with_volumes: bool) -> Deployment:
    """The record once an engine has confirmed that it holds nothing, or nothing but volumes."""
    others = tuple(engine for engine in record.volumes_on if engine != engine_id)
    return replace(
        record,
        touched=tuple(engine for engine in record.touched if engine != engine_id),
        volumes_on=others if with_volumes else (*others, engine_id),
        attempts=tuple(replace(a, fenced=True) if a.engine_id == engine_id else a for a in record.attempts),
    )


def _attempted(record: Deployment, now: float, failure: Failure | None) -> Deployment:
    last = replace(record.attempts[-1], end_time=now, failure=failure)
    return replace(record, attempts=(*record.attempts[:-1], last))


def _with_failed(decision: Decision, record: Deployment) -> Decision:
    """The new decision, where engines that failed in this operation say why."""
    why = {a.engine_id: a.failure for a in record.attempts if a.failure is not None}

    def told(candidate: Candidate) -> Candidate:
        failure = why.get(candidate.engine_id)
        if failure is None or candidate.verdict is Verdict.SELECTED:
            return candidate
        return replace(candidate, verdict=Verdict.FAILED, reason=failure.reason, message=failure.message)

    return Decision(candidates=tuple(told(candidate) for candidate in decision.candidates))
