"""Instances come and go with the calls, within their limits, and no call is lost between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.engines.engine import Invocation
from services.engines.wasm.function import FunctionSpec
from services.engines.wasm.journal import Journal
from services.engines.wasm.live import LiveFunction, LiveLimits
from services.engines.wasm.pool import Pool
from services.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from tests.unit.engines_wasm.fakes import FakeHouse, settled


@dataclass
class Bench:
    """A house of workers, a pool on it, and a clock."""

    house: FakeHouse
    pool: Pool
    directory: Path
    now: float = 0.0

    def function(self, name: str = "f", *, concurrency: int = 2, queue: int = 2) -> LiveFunction:
        """A function that runs here."""
        spec = FunctionSpec(
            name=name,
            runtime="python:3.14",
            handler="main.process",
            memory_bytes=128 << 20,
            timeout=10.0,
            concurrency=concurrency,
            env={},
        )
        return LiveFunction(
            workload_id=name,
            spec=spec,
            order={"name": name},
            pool=self.pool,
            journal=Journal(self.directory / name, component_id="c"),
            limits=LiveLimits(event_bytes=100, queue=queue),
            clock=lambda: self.now,
            monotonic=lambda: self.now,
        )


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bench]:
    """Makes one."""

    def bench(*, limit: int = 4, spares: int = 0) -> Bench:
        house = FakeHouse()
        return Bench(house, Pool(limit=limit, spares=spares, spawn=house.spawn), tmp_path)

    return bench


async def call(function: LiveFunction, event: bytes = b"1") -> bytes:
    """The result."""
    return (await function.invoke(Invocation(event=event))).result


async def test_an_idle_instance_is_used_again(make: Callable[..., Bench]) -> None:
    """One after the other needs one worker; the first call is the cold one; what a call wrote comes with it."""
    bench = make()
    async with bench.pool:
        function = bench.function()
        answers = [await function.invoke(Invocation(event=str(n).encode())) for n in range(3)]
        assert [answer.result for answer in answers] == [b"0", b"1", b"2"]
        assert [answer.cold_start for answer in answers] == [True, False, False]
        assert [(line.text, line.invocation_id) for line in answers[2].logs] == [("said", answers[2].invocation_id)]
        assert len(bench.house.workers) == 1
        assert function.counts.cold_starts == 1
    assert bench.house.alive == []


async def test_calls_beyond_concurrency_wait_and_beyond_the_queue_are_refused(make: Callable[..., Bench]) -> None:
    """Two run, two wait, the fifth is told at once; all that were taken are answered."""
    bench = make()
    async with bench.pool:
        function = bench.function()
        bench.house.gate.clear()
        calls = [asyncio.ensure_future(call(function, str(n).encode())) for n in range(4)]
        await settled()
        assert sorted(bench.house.calls) == [b"0", b"1"]
        with pytest.raises(ResourceExhausted) as caught:
            await call(function)
        assert (caught.value.reason, caught.value.retry_after) == ("QUEUE_FULL", 1.0)
        bench.house.gate.set()
        assert sorted(await asyncio.gather(*calls)) == [b"0", b"1", b"2", b"3"]
        assert len(bench.house.workers) == 2


async def test_a_lost_worker_is_told_of_and_replaced(make: Callable[..., Bench]) -> None:
    """Its own call is UNAVAILABLE, the other one goes on; a worker that died while idle costs nobody a call."""
    bench = make()
    async with bench.pool:
        function = bench.function()
        bench.house.gate.clear()
        calls = [asyncio.ensure_future(call(function, str(n).encode())) for n in range(2)]
        await settled()
        bench.house.workers[0].lost.set()
        await settled()
        bench.house.gate.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        (lost,) = [item for item in done if isinstance(item, Unavailable)]
        assert lost.reason == "WORKER_LOST"
        assert len([item for item in done if isinstance(item, bytes)]) == 1
        for worker in bench.house.workers:
            worker.is_alive = False
        assert await call(function) == b"1"
        assert function.counts.workers_lost == 1


async def test_a_caller_who_leaves_ends_its_call(make: Callable[..., Bench]) -> None:
    """The worker is ended, and its place is free."""
    bench = make()
    async with bench.pool:
        function = bench.function(concurrency=1)
        bench.house.gate.clear()
        leaving = asyncio.ensure_future(call(function))
        await settled()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert bench.house.alive == []
        bench.house.gate.set()
        assert await call(function) == b"1"


async def test_what_cannot_be_loaded_leaves_no_worker(make: Callable[..., Bench]) -> None:
    """The error says why."""
    bench = make()
    async with bench.pool:
        bench.house.bad_load = {"kind": "syntax", "message": "main.py line 2: no", "file": "main.py", "line": 2}
        with pytest.raises(FailedPrecondition) as caught:
            await bench.function().warm()
        assert (caught.value.reason, caught.value.metadata["line"]) == ("CODE_INVALID", "2")
        assert bench.house.alive == []


async def test_idle_instances_end_after_their_time_the_longest_unused_first(make: Callable[..., Bench]) -> None:
    """The one used last stays longest."""
    bench = make()
    async with bench.pool:
        function = bench.function()
        bench.house.gate.clear()
        calls = [asyncio.ensure_future(call(function)) for _ in range(2)]
        await settled()
        bench.house.gate.set()
        await asyncio.gather(*calls)
        bench.now = 100.0
        await call(function)
        assert await function.end_idle(50.0) == 1
        assert len(bench.house.alive) == 1
        assert await function.end_idle(50.0) == 0
        assert await function.end_idle() == 1
        assert bench.house.alive == []


async def test_a_full_house_takes_from_who_is_idle_longest(make: Callable[..., Bench]) -> None:
    """And refuses when nobody is."""
    bench = make(limit=1)
    async with bench.pool:
        first, second = bench.function("a"), bench.function("b")
        bench.pool.evict = first.evict_one
        await call(first)
        assert await call(second) == b"1"
        assert (first.pids, second.pids) == ([], [2])
        with pytest.raises(ResourceExhausted) as caught:
            await call(first)
        assert caught.value.reason == "WORKERS_BUSY"


async def test_a_spare_is_ready_for_the_next_cold_start(make: Callable[..., Bench]) -> None:
    """Made after the first one, taken by the next, gone when nobody needs it."""
    bench = make(spares=1)
    async with bench.pool:
        first, second = bench.function("a"), bench.function("b")
        await call(first)
        await settled()
        assert bench.house.alive == [1, 2]
        await call(second)
        assert second.pids == [2]
        await settled()
        bench.pool.keep_spares(False)
        await settled()
        assert bench.house.alive == [1, 2]
        assert bench.house.workers[2].loaded is None
    assert bench.house.alive == []


async def test_who_closes_lets_calls_end_within_the_grace_period(make: Callable[..., Bench]) -> None:
    """New ones are refused at once; what has not ended then is cut; opened again it takes calls."""
    bench = make()
    async with bench.pool:
        function = bench.function()
        bench.house.gate.clear()
        running = asyncio.ensure_future(call(function))
        await settled()
        closing = asyncio.ensure_future(function.close(60.0))
        await settled()
        with pytest.raises(FailedPrecondition) as caught:
            await call(function)
        assert caught.value.reason == "WORKLOAD_NOT_RUNNING"
        assert not closing.done()
        bench.house.gate.set()
        assert await running == b"1"
        await closing
        assert bench.house.alive == []
        function.open()
        bench.house.gate.clear()
        running = asyncio.ensure_future(call(function))
        await settled()
        await function.close(0.0)
        with pytest.raises(Unavailable):
            await running


async def test_an_event_beyond_the_limit_reaches_no_worker(make: Callable[..., Bench]) -> None:
    """Its size and the limit are told."""
    bench = make()
    async with bench.pool:
        with pytest.raises(InvalidArgument) as caught:
            await call(bench.function(), b"x" * 101)
        assert (caught.value.reason, caught.value.metadata["bytes"]) == ("EVENT_TOO_LARGE", "101")
        assert bench.house.workers == []
