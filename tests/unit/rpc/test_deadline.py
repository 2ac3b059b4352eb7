"""The deadline that is handed on."""

from __future__ import annotations

import asyncio
import contextvars

from services.rpc import deadline


def test_without_a_deadline_a_call_may_take_its_own_time() -> None:
    """Outside of a request, or in one without deadline, the budget is what the call asks for."""
    assert contextvars.Context().run(deadline.budget, 5.0) == 5.0
    deadline.enter(None)
    assert deadline.budget(5.0) == 5.0


async def test_a_call_may_take_what_the_request_has_left() -> None:
    """Within a request the budget is the smaller of both, in its tasks too, and never nothing."""

    async def asked(seconds: float) -> float:
        return deadline.budget(seconds)

    deadline.enter(2.0)
    assert 1.5 < await asyncio.create_task(asked(5.0)) <= 2.0
    assert deadline.budget(0.5) == 0.5
    deadline.enter(-1.0)
    assert 0 < deadline.budget(5.0) < 0.01


async def test_one_requests_deadline_is_not_anothers() -> None:
    """Each request's task has its own deadline, and detached work has none."""

    async def request(remaining: float) -> float:
        deadline.enter(remaining)
        await asyncio.sleep(0)
        return deadline.budget(100.0)

    async with asyncio.TaskGroup() as tasks:
        short, long = tasks.create_task(request(1.0)), tasks.create_task(request(50.0))
    assert short.result() <= 1.0 < 40.0 < long.result()
    deadline.enter(1.0)
    deadline.detach()
    assert deadline.budget(100.0) == 100.0
