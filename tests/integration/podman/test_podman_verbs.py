"""On a real podman: commands leave nothing behind, stats are the kernel's own, a stop keeps all but the processes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.engines.engine import Component, ExecOrder, ExecOutput, ExitStatus, LogQuery, WorkloadState
from services.engines.podman.engine import PodmanEngine
from services.errors import FailedPrecondition, InvalidArgument
from services.manifests import parse
from tests.harness.podman import PodmanMachine
from tests.harness.ports import free_port
from tests.integration.podman.workloads import (
    FOREVER,
    all_in,
    container,
    destroy,
    engine_on,
    only,
    read,
    spec,
    texts,
    until,
)

pytestmark = [pytest.mark.podman, pytest.mark.timeout(90)]


def lingers() -> tuple[str, bytes]:
    """A command with a child, neither of which wants to go, and the word by which they are known."""
    word = str(100_000 + secrets.randbelow(900_000))
    return f"trap '' TERM HUP; echo ready; sleep {word} & sleep {word}", word.encode()


async def run(engine: PodmanEngine, workload: str, order: ExecOrder) -> tuple[bytes, int]:
    """What a command wrote, and its exit code."""
    wrote = b""
    async with engine.exec(workload, order) as session:
        await session.close_stdin()
        async for piece in session.output():
            if isinstance(piece, ExitStatus):
                return wrote, piece.exit_code
            wrote += piece.data
    raise AssertionError("no exit status")


def cgroup(container_pid: int, controller: str) -> Path:
    """Where the kernel counts for a process: cgroup v1's controller, or v2."""
    for line in Path(f"/proc/{container_pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}")
    return Path(f"/sys/fs/cgroup{path}")


@asynccontextmanager
async def deployed(
    machine: PodmanMachine, node_id: str, *containers: dict[str, object], **fields: Any
) -> AsyncIterator[tuple[PodmanEngine, str]]:
    """A workload that runs, and is destroyed again."""
    wanted = spec(node_id, *containers, **fields)
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        try:
            await until(engine, wanted.workload_id, all_in(WorkloadState.RUNNING), "it runs")
            yield engine, wanted.workload_id
        finally:
            await destroy(engine, wanted.workload_id, force=True)


def lingering(word: bytes) -> int:
    """How many processes of the command are there, on the whole machine."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += word in path.read_bytes()
        except OSError:
            continue
    return found


@pytest.mark.parametrize("tty", [False, True])
async def test_a_command_that_is_left_ends_with_its_children(machine: PodmanMachine, node_id: str, tty: bool) -> None:
    """Also one that ignores TERM and HUP; the container's own process runs on."""
    script, word = lingers()
    order = ExecOrder(command=("sh", "-c", script), tty=tty)
    async with deployed(machine, node_id, container(FOREVER)) as (engine, workload):
        before = only(await engine.observe_one(workload))
        async with engine.exec(workload, order) as session:
            assert isinstance(first := await anext(aiter(session.output())), ExecOutput)
            assert first.data.strip() == b"ready"
            async with asyncio.timeout(10):  # it says so before its child is there
                while lingering(word) < 2:
                    await asyncio.sleep(0.02)
        assert lingering(word) == 0
        assert only(await engine.observe_one(workload)).start_time == before.start_time


async def test_a_command_that_is_cancelled_while_it_begins_does_not_stay(machine: PodmanMachine, node_id: str) -> None:
    """Wherever the cancellation falls."""
    script, word = lingers()
    order = ExecOrder(command=("sh", "-c", script))
    async with deployed(machine, node_id, container(FOREVER)) as (engine, workload):
        for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
            task = asyncio.create_task(run(engine, workload, order))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.wait([task])
            assert lingering(word) == 0, delay


async def test_a_command_that_cannot_be_executed_says_so(machine: PodmanMachine, node_id: str) -> None:
    """COMMAND_NOT_EXECUTABLE for a directory; a program's own 127 is its exit code."""
    async with deployed(machine, node_id, container(FOREVER)) as (engine, workload):
        with pytest.raises(FailedPrecondition) as caught:
            await run(engine, workload, ExecOrder(command=("/bin",)))
        assert caught.value.reason == "COMMAND_NOT_EXECUTABLE"
        assert await run(engine, workload, ExecOrder(command=("sh", "-c", "echo gone; exit 127"))) == (b"gone\n", 127)


async def test_of_several_components_one_must_be_named(machine: PodmanMachine, node_id: str) -> None:
    """COMPONENT_REQUIRED lists them; each is reached by its name."""
    both = (container(FOREVER, name="one"), container(FOREVER, name="two"))
    async with deployed(machine, node_id, *both) as (engine, workload):
        with pytest.raises(InvalidArgument) as caught:
            await run(engine, workload, ExecOrder(command=("true",)))
        assert caught.value.reason == "COMPONENT_REQUIRED"
        assert "one, two" in caught.value.message
        assert await run(engine, workload, ExecOrder(component_id="two", command=("echo", "hi"))) == (b"hi\n", 0)


async def test_a_slow_reader_holds_the_command_up(machine: PodmanMachine, node_id: str) -> None:
    """A hundred megabytes wait in the command, not in the engine."""
    script = "i=0; while [ $i -lt 1600 ]; do dd if=/dev/zero bs=65536 count=1 2>/dev/null; i=$((i+1)); done"
    async with deployed(machine, node_id, container(FOREVER)) as (engine, workload):
        async with engine.exec(workload, ExecOrder(command=("sh", "-c", script))) as session:
            output = aiter(session.output())
            await anext(output)
            before = rss()
            await asyncio.sleep(1.0)
            assert rss() - before < 8 << 20
            total = 0
            async for piece in output:
                total += len(piece.data) if isinstance(piece, ExecOutput) else 0
        assert total > 1500 * 65536


def rss() -> int:
    """This process's memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_stats_are_the_kernels(machine: PodmanMachine, node_id: str) -> None:
    """A busy component uses what its limit allows, an idle one next to none; memory is as the cgroup has it."""
    busy = container(
        "x=$(head -c 8000000 /dev/zero | tr '\\0' y); while :; do :; done",
        name="busy",
        resources={"limits": {"cpu": "300m"}},
    )
    async with deployed(machine, node_id, busy, container(FOREVER, name="idle")) as (engine, workload):
        found = await engine.observe_one(workload)
        assert found is not None
        names = {component.component_id: component.display_name for component in found.components}
        await asyncio.sleep(1.0)
        pids = {item["Id"]: item["Pid"] for item in machine.listed("ps")}
        used: dict[str, list[float]] = {"busy": [], "idle": []}
        for _ in range(4):
            for sample in await engine.stats(workload):
                assert abs(sample.sample_time - time.time()) < 5
                assert sample.cpu_cores is not None
                used[names[sample.component_id]].append(sample.cpu_cores)
        assert 0.1 < sum(used["busy"]) / 4 < 0.5
        assert sum(used["idle"]) / 4 < 0.1
        for sample in await engine.stats(workload):
            home = cgroup(pids[sample.component_id], "memory")
            counter = home / "memory.usage_in_bytes"
            kernel = int((counter if counter.exists() else home / "memory.current").read_text())
            assert sample.memory_bytes is not None
            assert abs(sample.memory_bytes - kernel) < 1 << 20
        assert {name for name in used if len(used[name]) == 4} == {"busy", "idle"}


async def test_network_counts_are_the_components_own_view(machine: PodmanMachine, node_id: str) -> None:
    """What it has received is rx, whatever podman's version calls it."""
    port = free_port()
    script = f"echo x | nc -w 1 127.0.0.1 {port}; nc -lk -p 8080 -e cat & " + FOREVER
    wanted = container(script, ports=[{"containerPort": 8080, "hostPort": port}])
    async with deployed(machine, node_id, wanted) as (engine, workload):
        only(await engine.observe_one(workload))
        pids = {item["Id"]: item["Pid"] for item in machine.listed("ps")}
        (sample,) = await engine.stats(workload)
        assert (sample.network_rx_bytes, sample.network_tx_bytes) == network(pids[sample.component_id])


def network(pid: int) -> tuple[int, int]:
    """Bytes received and sent as the process sees them."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    (eth,) = [line.split(":")[1].split() for line in lines if line.strip().startswith("eth0:")]
    return int(eth[0]), int(eth[8])


async def test_a_stop_gives_time_and_frees_the_port(machine: PodmanMachine, node_id: str) -> None:
    """What is said on TERM is in the log; nothing listens any more; a start brings the same container back."""
    port = free_port()
    script = "trap 'sleep 1; echo ended well; exit 0' TERM; echo begun; while :; do sleep 0.05; done"
    wanted = container(script, ports=[{"containerPort": 8080, "hostPort": port}])
    async with deployed(machine, node_id, wanted, terminationGracePeriodSeconds=20) as (engine, workload):
        before = only(await engine.observe_one(workload))
        began = time.monotonic()
        await engine.stop(workload, grace_seconds=None)
        assert 1.0 < time.monotonic() - began < 5.0
        assert only(await engine.observe_one(workload)).state is WorkloadState.SUCCEEDED
        assert texts(await read(engine, workload, LogQuery())) == ["begun", "ended well"]
        async with asyncio.timeout(5):
            async with await asyncio.start_server(lambda _r, w: w.close(), "0.0.0.0", port):
                with pytest.raises(FailedPrecondition) as caught:
                    await engine.start(workload)
            assert caught.value.reason == "PORT_IN_USE"
        await engine.start(workload)
        found = await until(engine, workload, all_in(WorkloadState.RUNNING), "it runs again")
        assert only(found).component_id == before.component_id


async def test_a_stop_in_a_hurry_kills_and_nothing_restarts_it(machine: PodmanMachine, node_id: str) -> None:
    """A grace period of none; the restart policy is no reason to start it again."""
    deaf = container("trap '' TERM; while :; do sleep 0.05; done")
    async with deployed(machine, node_id, deaf, restartPolicy="Always") as (engine, workload):
        for grace in (0.0, 1.0):
            began = time.monotonic()
            await engine.stop(workload, grace_seconds=grace)
            assert time.monotonic() - began < grace + 4.0
            await asyncio.sleep(1.0)
            assert _ended(only(await engine.observe_one(workload)))
            await engine.start(workload)
            await until(engine, workload, all_in(WorkloadState.RUNNING), "it runs again")


async def test_a_stop_by_another_signal(machine: PodmanMachine, node_id: str) -> None:
    """The process gets the signal that was named, and in the end nothing runs."""
    script = "trap 'echo by INT; exit 0' INT; trap 'echo by TERM; exit 0' TERM; while :; do sleep 0.05; done"
    async with deployed(machine, node_id, container(script), restartPolicy="Always") as (engine, workload):
        await engine.stop(workload, grace_seconds=5.0, signal="SIGINT")
        await asyncio.sleep(1.0)
        assert _ended(only(await engine.observe_one(workload)))
        assert texts(await read(engine, workload, LogQuery()))[:1] == ["by INT"]


def _ended(component: Component) -> bool:
    return component.state in (WorkloadState.SUCCEEDED, WorkloadState.FAILED)


async def test_an_export_names_the_image_that_runs(machine: PodmanMachine, node_id: str) -> None:
    """By digest where podman knows it so; and the text can be deployed."""
    wanted = spec(node_id, container(FOREVER))
    async with engine_on(machine, node_id) as engine:
        await engine.create(wanted)
        exported = await engine.export(wanted, await engine.observe_one(wanted.workload_id))
        await destroy(engine, wanted.workload_id, force=True)
        image = parse(exported.text).documents[0].body["spec"]["containers"][0]["image"]
        assert "@sha256:" in image
        again = parse(exported.text)
        assert not [issue for issue in engine.check(again, wanted.config) if issue.reason != "DEFAULTED"]
