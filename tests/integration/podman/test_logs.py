"""Logs as podman's monitor really writes them, through rotations and restarts of the service, and through the API."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from services.engines.engine import Component, LogLine, LogQuery, Spec
from services.engines.podman.api import Podman
from services.engines.podman.engine import PodmanEngine
from services.engines.podman.http import UnixHttp
from services.engines.podman.logs import Logs
from services.engines.podman.service import PodmanService
from services.engines.podman.shelf import FILES, LEAST_BYTES
from services.engines.streams import closed_after
from services.errors import Unavailable
from tests.harness.podman import IMAGE, PodmanMachine
from tests.integration.podman.workloads import answering, container, destroy, engine_on, only, spec, texts

pytestmark = [pytest.mark.podman, pytest.mark.timeout(90)]

COUNT = """
count() {
  while [ $1 -lt $2 ]; do
    echo line $1; set -- $(($1+1)) $2; [ $(($1%50)) = 0 ] && sleep 0.01
  done
}
"""
AT_ONCE = 3
"""Descriptors that one list, and the engine's own calls, have open for a moment."""
IDLE = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


@contextmanager
def running(machine: PodmanMachine, script: str, *options: str) -> Iterator[str]:
    """The id of a container with a log file that runs this script."""
    settings = ("--detach", "--log-driver=k8s-file", "--network=none", *options)
    container = machine.podman("run", *settings, IMAGE, "sh", "-c", script).strip()
    try:
        yield container
    finally:
        machine.podman("rm", "--force", "--time=0", container)


@asynccontextmanager
async def served(service: PodmanService) -> AsyncIterator[Podman]:
    """A podman service, from its start to its end."""
    async with service:
        http = UnixHttp(service.socket)
        while True:
            try:
                await http.call("GET", "/libpod/_ping", timeout=5)
                break
            except Unavailable:
                await asyncio.sleep(0.02)
        yield Podman(http)


def logs(podman: Podman, container: str, query: LogQuery, *, local: bool = True) -> Logs:
    """One reader."""
    component = Component(component_id=container, display_name="main")
    return Logs(podman=podman, components=[component], query=query, clock=time.time, local=local)


async def read(reader: Logs, count: int | None = None) -> list[LogLine]:
    """The first `count` lines, or all."""
    lines: list[LogLine] = []
    async with asyncio.timeout(60), closed_after(reader.batches()) as batches:
        async for batch in batches:
            lines.extend(batch)
            if count is not None and len(lines) >= count:
                break
    return lines[:count]


async def test_ten_thousand_lines_survive_rotations_and_a_restart(machine: PodmanMachine) -> None:
    """Following 10,000 lines over rotations and a restart of the service says each line once, in order."""
    script = f"{COUNT}trap 'go=1' USR1; count 0 5000; while [ -z $go ]; do sleep 0.05; done; count 5000 10000"
    with running(machine, script, "--log-opt=max-size=100kb") as made:
        async with served(machine.service()) as podman:
            first = await read(logs(podman, made, LogQuery(follow=True)), 5000)
            assert written(machine, made) < 100_000  # 5,000 lines are 250,000 bytes: the file was replaced
        async with served(machine.service()) as podman:
            machine.podman("kill", "--signal=USR1", made)
            query = LogQuery(follow=True, resume_cursor=first[-1].cursor)
            second = await read(logs(podman, made, query))
            await asyncio.sleep(0)
            late = await read(logs(podman, made, LogQuery(resume_cursor=first[0].cursor)))
    assert texts(first) == [f"line {number}" for number in range(5000)]
    assert texts(second) == [f"line {number}" for number in range(5000, 10000)]
    assert not any(line.dropped_lines for line in first + second)
    assert late[0].dropped_lines == 1  # the file with that place is gone by now
    assert texts(late) == texts(first + second)[-len(late) :]


async def test_a_thousand_tails_leave_no_descriptor(machine: PodmanMachine, node_id: str) -> None:
    """A thousand tails leave no descriptor in podman's service, and none here."""
    service, wanted = machine.service(), spec(node_id, container(f"echo one; echo two; {IDLE}"))
    async with running_on(machine, service, wanted) as engine:
        assert service.pid is not None
        before, own = descriptors(service.pid), descriptors(os.getpid())
        for _ in range(1000):
            assert texts(await all_of(engine, wanted, LogQuery(tail_lines=1))) == ["two"]
        assert await left(service.pid, before, Podman(UnixHttp(service.socket))) <= AT_ONCE
        assert descriptors(os.getpid()).total() <= own.total() + 2


async def test_a_thousand_tails_by_the_api_leave_no_descriptor(machine: PodmanMachine) -> None:
    """Where the file cannot be read neither."""
    with running(machine, f"echo one; echo two; {IDLE}") as made:
        service = machine.service()
        async with served(service) as podman:
            while len(await read(logs(podman, made, LogQuery(), local=False))) < 2:
                await asyncio.sleep(0.02)
            assert service.pid is not None
            before, own = descriptors(service.pid), descriptors(os.getpid())
            for _ in range(1000):
                assert texts(await read(logs(podman, made, LogQuery(tail_lines=1), local=False))) == ["two"]
            assert await left(service.pid, before, podman) <= AT_ONCE
            assert descriptors(os.getpid()).total() <= own.total() + 2


async def test_followers_of_idle_containers_cost_no_thread(machine: PodmanMachine, node_id: str) -> None:
    """Fifty followers of an idle container add no thread, nothing to podman's service, and end when they are closed."""
    service, wanted = machine.service(), spec(node_id, container(f"echo once; {IDLE}"))
    async with running_on(machine, service, wanted) as engine, asyncio.TaskGroup() as tasks:
        assert service.pid is not None
        threads, before, own = threading.active_count(), descriptors(service.pid), descriptors(os.getpid())
        heard: list[str] = []

        async def follow() -> None:
            async for batch in engine.logs(wanted.workload_id, LogQuery(follow=True)):
                heard.extend(texts(batch))

        followers = [tasks.create_task(follow()) for _ in range(50)]
        while len(heard) < 50:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert threading.active_count() <= threads
        assert await left(service.pid, before, Podman(UnixHttp(service.socket))) <= AT_ONCE
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        assert descriptors(os.getpid()).total() <= own.total() + 2
    assert heard == ["once"] * 50


async def test_the_api_says_the_same_as_the_file(machine: PodmanMachine) -> None:
    """Where the file cannot be read the API tells the same lines, and goes on from its own cursors."""
    script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; printf 'bad \\377 end'"
    with running(machine, script) as made:
        async with served(machine.service()) as podman:
            machine.podman("wait", made)
            file = await read(logs(podman, made, LogQuery()))
            api = await read(logs(podman, made, LogQuery(), local=False))
            resumed = await read(logs(podman, made, LogQuery(resume_cursor=api[99].cursor)))
            by_file = await read(logs(podman, made, LogQuery(resume_cursor=file[99].cursor)))
            by_api = await read(logs(podman, made, LogQuery(resume_cursor=file[99].cursor), local=False))
    assert [(line.source, line.text) for line in file] == [(line.source, line.text) for line in api]
    (bad,) = [line for line in file if line.lossy]
    assert (len(file), bad.text, bad.partial) == (302, "bad \ufffd end", True)
    assert texts(resumed) == texts(by_file) == texts(by_api) == texts(file)[100:]


async def test_since_is_honoured_to_the_nanosecond(machine: PodmanMachine) -> None:
    """Since a time within a second come exactly the lines of that time and after it."""
    with running(machine, "echo a; sleep 0.1; echo b; sleep 0.1; echo c; echo d") as made:
        async with served(machine.service()) as podman:
            machine.podman("wait", made)
            whole = await read(logs(podman, made, LogQuery()))
            for number, line in enumerate(whole[:3]):
                since = await read(logs(podman, made, LogQuery(since_time=line.time)))
                assert texts(since) == texts(whole)[number:]
            both = await read(logs(podman, made, LogQuery(since_time=whole[1].time, tail_lines=1)))
    assert texts(whole) == ["a", "b", "c", "d"]
    assert texts(both) == ["d"]


async def test_a_containers_log_is_capped(machine: PodmanMachine, node_id: str) -> None:
    """A container that writes three times its cap keeps no more than that on disk; its last lines can be read."""
    cap, lines = LEAST_BYTES, 9000
    script = f"{COUNT.replace('line', 'x' * 50)}count 0 {lines}; {IDLE}"
    wanted, least = spec(node_id, container(script)), []
    async with machine.engine(node_id, log_bytes=cap) as engine:
        await answering(engine)
        await engine.create(wanted)
        found = only(await engine.observe_one(wanted.workload_id))
        path = Path(machine.listed("container", "inspect", found.component_id)[0]["HostConfig"]["LogConfig"]["Path"])
        async with closed_after(engine.logs(wanted.workload_id, LogQuery(follow=True))) as batches:
            async for batch in batches:
                least.append(on_disk(path))
                if batch[-1].text.endswith(f" {lines - 1}"):
                    break
        whole = await all_of(engine, wanted, LogQuery())
        tail = await all_of(engine, wanted, LogQuery(tail_lines=1200))
        await destroy(engine, wanted.workload_id, force=True)
    assert max(least) <= cap
    assert not path.parent.exists()
    assert len(whole) * 100 > cap / FILES  # a full file, and what is in the newest
    numbers = [int(line.text.split()[1]) for line in whole]
    assert (numbers[-1], texts(tail)) == (lines - 1, texts(whole)[-1200:])
    for line, number, before in zip(whole[1:], numbers[1:], numbers, strict=False):
        assert number == before + 1 or (line.dropped_lines and number > before)  # a busy machine looks too late


async def test_podmans_own_default_for_logs_does_not_count(machine: PodmanMachine, node_id: str) -> None:
    """Unless another cap is set a container has 30 MiB, in files of a third of that."""
    wanted = spec(node_id, container(IDLE))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        found = only(await engine.observe_one(wanted.workload_id))
        (inspected,) = machine.listed("container", "inspect", found.component_id)
        await destroy(engine, wanted.workload_id, force=True)
    config = inspected["HostConfig"]["LogConfig"]
    assert (config["Type"], config["Size"]) == ("k8s-file", "10.49MB")


def written(machine: PodmanMachine, container: str) -> int:
    """The size of a container's log file."""
    config = machine.listed("container", "inspect", container)[0]["HostConfig"]["LogConfig"]
    return Path(config["Path"]).stat().st_size


def on_disk(path: Path) -> int:
    """The bytes that all files of a log take, each counted once."""
    files = {}
    for entry in path.parent.glob(f"{path.name}*"):
        with suppress(OSError):  # it has just been replaced
            files[entry.stat().st_ino] = entry.stat().st_size
    return sum(files.values())


async def left(pid: int, before: Counter[str], podman: Podman) -> int:
    """How many descriptors more than before podman's service has, once Go's garbage collector has run.

    podman 4 leaves two kinds to the collector: each list opens the network namespace of every pod that runs, each
    inspection of a running container its config.json. The collector comes after some ten megabytes of garbage, so
    lists are asked for until it has; what really leaked it does not take away.
    """
    least = (descriptors(pid) - before).total()
    for _ in range(400):
        if least <= AT_ONCE:
            break
        await podman.pods({})
        least = min(least, (descriptors(pid) - before).total())
    return least


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, and how often; ids and numbers left out."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            found[re.sub(r"[0-9a-f]{64}|\[\d+\]", "#", str(entry.readlink()))] += 1
    return found


@asynccontextmanager
async def running_on(machine: PodmanMachine, service: PodmanService, wanted: Spec) -> AsyncIterator[PodmanEngine]:
    """An engine on this service with this workload, which has written all that it writes."""
    async with machine.engine(wanted.ownership.node_id, service=service) as engine:
        await answering(engine)
        await engine.create(wanted)
        while not await all_of(engine, wanted, LogQuery()):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)  # the last hints of the start have been followed
        yield engine
        await destroy(engine, wanted.workload_id, force=True)


async def all_of(engine: PodmanEngine, wanted: Spec, query: LogQuery) -> list[LogLine]:
    """All lines of a workload."""
    return [line async for batch in engine.logs(wanted.workload_id, query) for line in batch]
