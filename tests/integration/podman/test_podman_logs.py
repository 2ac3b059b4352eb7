"""Logs on a real podman: whole, in order, resumable, and without a trace in the service."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from services.engines.engine import LogQuery, LogSource, WorkloadState
from services.engines.streams import closed_after
from services.errors import NotFound
from tests.harness.podman import PodmanMachine
from tests.integration.podman.workloads import (
    FOREVER,
    all_in,
    container,
    destroy,
    engine_on,
    first_lines,
    only,
    read,
    spec,
    texts,
    until,
)

pytestmark = [pytest.mark.podman, pytest.mark.timeout(60)]

TALK = "i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i+1)); done; echo problem >&2; printf unfinished; "


async def test_lines_keep_their_source_time_and_end(machine: PodmanMachine, node_id: str) -> None:
    """Lines keep their order and source, have times, and one without a newline is partial."""
    wanted = spec(node_id, container(TALK + "exit 0"), restartPolicy="Never")
    async with engine_on(machine, node_id) as engine:
        began = time.time()
        await engine.create(wanted)
        await until(engine, wanted.workload_id, all_in(WorkloadState.SUCCEEDED), "it has ended")
        lines = await read(engine, wanted.workload_id)
        errors = await read(engine, wanted.workload_id, LogQuery(sources=frozenset({LogSource.STDERR})))
        await destroy(engine, wanted.workload_id)
        with pytest.raises(NotFound):
            await read(engine, wanted.workload_id)
    out = [line for line in lines if line.source is LogSource.STDOUT]
    assert texts(out) == [*(f"line {number}" for number in range(20)), "unfinished"]
    assert [line.partial for line in out] == [False] * 20 + [True]
    assert texts(errors) == ["problem"]
    assert all(line.time is not None and began - 2 < line.time < time.time() + 2 for line in lines)


async def test_tail_resume_and_follow_say_each_line_once(machine: PodmanMachine, node_id: str) -> None:
    """The last n lines are the last n; from any line's cursor the rest follows, each line once."""
    wanted = spec(node_id, container(TALK.replace("printf unfinished; ", "") + "exit 0"), restartPolicy="Never")
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        await until(engine, wanted.workload_id, all_in(WorkloadState.SUCCEEDED), "it has ended")
        whole = await read(engine, wanted.workload_id)
        assert texts(await read(engine, wanted.workload_id, LogQuery(tail_lines=5))) == texts(whole)[-5:]
        assert await read(engine, wanted.workload_id, LogQuery(tail_lines=0)) == []
        assert texts(await read(engine, wanted.workload_id, LogQuery(tail_lines=3, follow=True))) == texts(whole)[-3:]
        for number in (0, 7, len(whole) - 1):
            query = LogQuery(resume_cursor=whole[number].cursor, follow=True)
            assert texts(await read(engine, wanted.workload_id, query)) == texts(whole)[number + 1 :]
        by_name = await read(engine, wanted.workload_id, LogQuery(component_id="main"))
        assert by_name == whole
        with pytest.raises(NotFound):
            await read(engine, wanted.workload_id, LogQuery(component_id="nobody"))
        late = await read(engine, wanted.workload_id, LogQuery(since_time=time.time() + 60))
        await destroy(engine, wanted.workload_id)
    assert late == []


async def test_following_goes_on_through_restarts(machine: PodmanMachine, node_id: str) -> None:
    """Following a container that restarts goes on with its next life, and says no line twice."""
    wanted = spec(node_id, container("echo born; sleep 0.3; echo dies; exit 1"))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        lines = await first_lines(engine, wanted.workload_id, 6, seconds=20)
        found = only(await engine.observe_one(wanted.workload_id))
        await destroy(engine, wanted.workload_id, force=True)
    assert texts(lines) == ["born", "dies"] * 3
    assert found.restart_count >= 2


async def test_following_several_components_ends_with_the_last(machine: PodmanMachine, node_id: str) -> None:
    """Following a whole pod brings the lines of all its containers, and ends when all have ended."""
    wanted = spec(
        node_id,
        container("echo a; exit 0", name="short"),
        container("sleep 1; echo b; exit 0", name="long"),
        restartPolicy="Never",
    )
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        async with asyncio.timeout(15):
            lines = await read(engine, wanted.workload_id, LogQuery(follow=True))
        await destroy(engine, wanted.workload_id)
    assert sorted(texts(lines)) == ["a", "b"]


async def test_only_what_comes_is_followed_with_tail_0(machine: PodmanMachine, node_id: str) -> None:
    """With tail 0, following begins with what is written from now on."""
    wanted = spec(node_id, container("echo old; sleep 2; echo new; " + FOREVER))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        await first_lines(engine, wanted.workload_id, 1)
        lines = await first_lines(engine, wanted.workload_id, 1, LogQuery(follow=True, tail_lines=0))
        await destroy(engine, wanted.workload_id)
    assert texts(lines) == ["new"]


async def test_followers_that_go_away_leave_no_descriptor_here(machine: PodmanMachine, node_id: str) -> None:
    """Followers of an idle container that are closed, or given up in the middle of waiting, leave nothing open."""
    wanted = spec(node_id, container("echo once; " + FOREVER))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        await first_lines(engine, wanted.workload_id, 1)
        before = descriptors()
        for _ in range(10):
            async with closed_after(engine.logs(wanted.workload_id, LogQuery(follow=True))) as batches:
                await anext(batches)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await anext(batches)
        after = descriptors()
        await destroy(engine, wanted.workload_id, force=True)
    assert after <= before + 2


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
