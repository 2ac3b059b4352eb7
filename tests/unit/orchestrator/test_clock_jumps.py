"""A wall clock that jumps by a day, forward or back, changes nothing of what an orchestrator does."""

from __future__ import annotations

import asyncio

import pytest

from services.errors import Aborted, OutOfRange
from services.orchestrator.model import State, Step
from services.orchestrator.requests import ApplyRequest
from services.orchestrator.steps import RUNNING, STARTING
from tests.unit.orchestrator.conftest import Core, Start, Wall
from tests.unit.orchestrator.fakes import POD, FakeEngines, view
from tests.unit.orchestrator.test_apply import ID, OTHER, applied

DAY = 86_400.0
both_ways = pytest.mark.parametrize("jump", [DAY, -DAY])


@both_ways
async def test_what_is_applied_and_deleted_is_so_over_a_jump(start: Start, jump: float) -> None:
    """Apply, jump, update, delete, apply again, restart: each does what it always does."""
    wall, engines = Wall(), FakeEngines(view("podman"))
    async with start(engines, wall=wall) as core:
        assert (await applied(core, request_id="r1"))[1] is State.ACTIVE
        wall.jump(jump)
        assert (await applied(core, request_id="r1"))[0].name == "NONE"
        assert (await applied(core, OTHER))[1] is State.ACTIVE
        await core.applier.delete(ID)
        await core.until(lambda: core.book.find(ID) is None)
        assert (await applied(core))[1] is State.ACTIVE
        sequences = [event.sequence for event in core.history.of(ID)]
        assert sequences == sorted(set(sequences))
    wall.jump(jump)
    async with start(engines, wall=wall) as core:
        assert core.book.get(ID).state is State.ACTIVE
        assert (await applied(core))[0].name == "NONE"


@both_ways
async def test_an_apply_that_settles_for_long_gives_way_after_a_jump(start: Start, jump: float) -> None:
    """An operation that waits for its workload does not refuse others for a day, because the clock was set back."""
    wall = Wall()
    async with start(FakeEngines(view("podman")), wall=wall) as core:
        core.engines["podman"].settles_in = STARTING
        await core.applier.apply(ApplyRequest(manifest=POD))
        await core.until(lambda: core.book.get(ID).step is Step.SETTLE)
        with pytest.raises(Aborted):
            await core.applier.apply(ApplyRequest(manifest=OTHER))
        wall.jump(jump)
        core.engines["podman"].settles_in = RUNNING
        assert (await applied(core, OTHER))[1] is State.ACTIVE


@both_ways
async def test_repairs_go_on_after_a_jump(start: Start, jump: float) -> None:
    """Repairs of before the jump do not count for a day against those after it."""
    wall = Wall()
    async with start(FakeEngines(view("podman")), wall=wall) as core:
        await applied(core)
        for _ in range(3):
            await _vanish_and_wait(core)
        wall.jump(jump)
        await _vanish_and_wait(core)


async def _vanish_and_wait(core: Core) -> None:
    workload = core.book.get(ID).workload_id
    core.engines["podman"].workloads.clear()
    core.reconciler.touch(workload)
    await core.until(lambda: workload in core.engines["podman"].workloads)
    await core.until(lambda: core.book.get(ID).state is State.ACTIVE)


async def test_a_token_of_a_database_that_is_gone_is_out_of_range(start: Start) -> None:
    """A watch that resumes after events that this database does not know is told so, and misses nothing in silence."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        known = core.history.of(ID)[-1].sequence
        with pytest.raises(OutOfRange):
            async with asyncio.timeout(5):
                await anext(core.history.watch(ID, token=str(known + 1_000_000)))


async def test_events_after_a_restore_have_higher_numbers_than_any_before(start: Start) -> None:
    """A database that was put back goes on counting by the clock, above what was told after it was saved."""
    wall, engines = Wall(), FakeEngines(view("podman"))
    async with start(engines, wall=wall) as core:
        await applied(core)
        told = core.history.of(ID)[-1].sequence
        await core.store.commit(("DELETE FROM events", ()))
    wall.jump(60.0)
    async with start(engines, wall=wall) as core:
        await applied(core, OTHER)
        assert min(event.sequence for event in core.history.of(ID)) > told
