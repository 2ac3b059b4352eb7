"""Logs as podman's monitor really writes them, through rotations and restarts of the service, and through the API."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from services.engines.engine import Component, LogLine, LogQuery
from services.engines.podman.api import Podman
from services.engines.podman.http import UnixHttp
from services.engines.podman.logs import Logs
from services.engines.podman.service import PodmanService
from services.engines.streams import closed_after
from services.errors import Unavailable
from tests.harness.podman import IMAGE, PodmanMachine
from tests.integration.podman.workloads import container, destroy, engine_on, only, spec, texts

pytestmark = [pytest.mark.podman, pytest.mark.timeout(90)]

COUNT = """
count() {
  while [ $1 -lt $2 ]; do
    echo line $1; set -- $(($1+1)) $2; [ $(($1%50)) = 0 ] && sleep 0.01
  done
}
"""
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
            late = await read(logs(podman, made, LogQuery(resume_cursor=first[-1].cursor)))
    assert texts(first) == [f"line {number}" for number in range(5000)]
    assert texts(second) == [f"line {number}" for number in range(5000, 10000)]
    assert not any(line.dropped_lines for line in first + second)
    assert late[0].dropped_lines == 1  # the file with that place is gone by now
    assert texts(late) == texts(second)[-len(late) :]


@pytest.mark.parametrize("local", [True, False])
async def test_a_thousand_tails_leave_no_descriptor(machine: PodmanMachine, local: bool) -> None:
    """A thousand tails, as a file or through the API, leave no descriptor in podman's service and none here."""
    with running(machine, f"echo one; echo two; {IDLE}") as made:
        service = machine.service()
        async with served(service) as podman:
            while len(await read(logs(podman, made, LogQuery(), local=local))) < 2:
                await asyncio.sleep(0.02)
            assert service.pid is not None
            before, own = descriptors(service.pid), descriptors(os.getpid())
            for _ in range(1000):
                assert texts(await read(logs(podman, made, LogQuery(tail_lines=1), local=local))) == ["two"]
            assert descriptors(os.getpid()) <= own + 2
            await settles(service.pid, before + 100)  # a thousand would be one each


async def test_followers_of_idle_containers_cost_no_thread(machine: PodmanMachine) -> None:
    """Fifty followers of an idle container add no thread, no connection to podman, and end when they are closed."""
    with running(machine, f"echo once; {IDLE}") as made:
        service = machine.service()
        async with served(service) as podman, asyncio.TaskGroup() as tasks:
            await read(logs(podman, made, LogQuery(follow=True)), 1)
            assert service.pid is not None
            threads, before, own = threading.active_count(), descriptors(service.pid), descriptors(os.getpid())
            heard: list[str] = []

            async def follow() -> None:
                async for batch in logs(podman, made, LogQuery(follow=True)).batches():
                    heard.extend(texts(batch))

            followers = [tasks.create_task(follow()) for _ in range(50)]
            while len(heard) < 50:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            assert threading.active_count() <= threads
            await settles(service.pid, before + 40)  # fifty more would be one each
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
            assert descriptors(os.getpid()) <= own + 2
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
    """A container of a workload logs into a file that podman caps at 10 MiB, whatever podman's default is."""
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


async def settles(pid: int, bound: int) -> None:
    """No more descriptors than this stay open; some wait for Go's garbage collector."""
    deadline = time.monotonic() + 10
    while (now := descriptors(pid)) > bound:
        assert time.monotonic() < deadline, f"{now} descriptors are open, {bound} are expected"
        await asyncio.sleep(0.1)


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
