"""Containers are restarted as their policy says, once for each exit, and never while their workload is ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.engines.engine import Component, ExitStatus, WorkloadState
from services.engines.podman.http import Refusal
from services.engines.pods.acts import Acts, SupervisorLimits
from services.engines.pods.memory import Memories, Memory
from services.engines.pods.report import CRASH_LOOP, NOT_READY, RESTARTING
from services.engines.pods.supervision import Orders, Sighting
from services.engines.pods.supervisor import Supervisor
from services.engines.probes import Exec, Finding, Probe, Probes
from services.engines.probes import Restart as Unhealthy
from services.engines.restarts import BackOff, Exit, Policy
from tests.unit.engines.test_prober import now, virtually

EPOCH = 1_000_000.0
LIMITS = SupervisorLimits(back_off=BackOff(base=10, cap=40), poll=3600.0)
PROBED = Probes(readiness=Probe(handler=Exec(command=("true",)), initial_delay=1e6))


class Inline(Executor):
    """Works at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Done when it returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except OSError as error:
            future.set_exception(error)
        return future


async def silence() -> AsyncIterator[bytes]:
    """The events of a backend that tells nothing by itself."""
    await asyncio.Event().wait()
    yield b""


class Unreached:
    """A `Dialer` of containers that no probe is sent to."""

    async def exec(self, component_id: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """Not asked for."""
        raise AssertionError(component_id)

    async def dial(self, component_id: str, port: int) -> tuple[str, int]:
        """Not asked for."""
        raise AssertionError(component_id)

    def forget(self, component_id: str) -> None:
        """Nothing is known."""


class Scene:
    """A supervisor, and what it did to the one container `c` of workload `w`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[float] = []
        self.stopped: list[tuple[float, float]] = []
        self.on_start: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.may_run = True
        self.supervisor = Supervisor(
            events=silence,
            dialer=Unreached(),
            memories=Memories(directory, writers=Inline()),
            acts=Acts(
                read=self._read,
                forget_inspection=lambda _: None,
                start=self._start,
                post_start=self._post_start,
                stop=self._stop,
            ),
            may_run=lambda _: self.may_run,
            clock=lambda: EPOCH + now(),
            limits=LIMITS,
        )

    async def _read(self) -> None:
        """The tests show it what there is."""

    async def _start(self, container: str) -> None:
        self.started.append(now())
        if self.on_start is not None:
            await self.on_start()

    async def _post_start(self, container: str) -> Finding:
        return Finding(ok=True)

    async def _stop(self, container: str, seconds: float) -> None:
        self.stopped.append((now(), seconds))

    def see(self, *seen: Sighting, began: float | None = None) -> None:
        """Show it what podman has."""
        self.supervisor.see(seen, began=now() if began is None else began, whole=True)

    def describe(self, state: WorkloadState, code: int | None = None) -> Component:
        """The container as a caller sees it."""
        exit_status = None if code is None else ExitStatus(exit_code=code)
        return self.supervisor.describe(
            Component(component_id="c", display_name="main", state=state, exit_status=exit_status)
        )

    def kept(self) -> Memory:
        """What is on disk."""
        return msgspec.json.decode((self.directory / "w.json").read_bytes(), type=Memory)


def running(run: str, *, probes: Probes | None = None, policy: Policy = Policy.ALWAYS) -> Sighting:
    """The container in this run."""
    orders = Orders(policy=policy, host_network=False, grace_seconds=30.0, probes=probes or Probes())
    return Sighting(
        container_id="c",
        name="main",
        workload_id="w",
        infra_id="i",
        orders=orders,
        run=run,
        started_at=EPOCH + now(),
        running=True,
        exit=None,
    )


def ended(run: str, code: int = 1, *, policy: Policy = Policy.ALWAYS) -> Sighting:
    """The container after this run, which has just ended."""
    time, reason = EPOCH + now(), "Error" if code else "Completed"
    exit_ = Exit(exit_code=code, reason=reason, start_time=time, finish_time=time)
    return replace(running(run, policy=policy), running=False, exit=exit_)


def test_each_restart_waits_longer_than_the_one_before(tmp_path: Path) -> None:
    """The first restart is immediate; then each waits twice as long, up to the cap."""

    async def main() -> None:
        scene, begun = Scene(tmp_path), []
        async with scene.supervisor:
            for number in range(5):
                scene.see(running(f"r{number}"))
                begun.append(now())
                scene.see(ended(f"r{number}"))
                await asyncio.sleep(100)
        assert [round(at - begun[index]) for index, at in enumerate(scene.started)] == [0, 10, 20, 40, 40]

    virtually(main())


def test_a_restart_is_on_disk_before_it_is_carried_out(tmp_path: Path) -> None:
    """When the container is started, the file says already that it was restarted."""

    async def main() -> None:
        scene, counts = Scene(tmp_path), []

        async def note() -> None:
            counts.append(scene.kept().of("c").history.restart_count)

        scene.on_start = note
        async with scene.supervisor:
            for number in range(3):
                scene.see(ended(f"r{number}"))
                await asyncio.sleep(100)
        assert counts == [1, 2, 3]

    virtually(main())


def test_one_exit_is_one_restart_however_often_it_is_seen(tmp_path: Path) -> None:
    """Seeing the same exit again, or an older reading, starts and counts nothing."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            for _ in range(5):
                scene.see(ended("r0"))
            await asyncio.sleep(1)
            before = now()
            await asyncio.sleep(1)
            scene.see(running("r1"))
            scene.see(ended("r0"), began=before)
            await asyncio.sleep(100)
            assert scene.describe(WorkloadState.RUNNING).restart_count == 1
        assert scene.started == [0.0]

    virtually(main())


@pytest.mark.parametrize(
    ("policy", "code", "is_started"),
    [
        (Policy.ALWAYS, 0, True),
        (Policy.ON_FAILURE, 0, False),
        (Policy.ON_FAILURE, 3, True),
        (Policy.NEVER, 3, False),
    ],
)
def test_the_policy_decides(tmp_path: Path, policy: Policy, code: int, is_started: bool) -> None:
    """Always restarts what ended, OnFailure what failed, Never nothing; what stays down is said not to come back."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(ended("r0", code, policy=policy))
            assert scene.supervisor.comes_back("c") is is_started
            await asyncio.sleep(1)
        assert bool(scene.started) is is_started

    virtually(main())


def test_what_is_ended_is_not_started(tmp_path: Path) -> None:
    """A restart that waits when its workload is ended is not carried out, nor is one after an exit seen later."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(ended("r0"))
            await asyncio.sleep(1)
            scene.see(running("r1"))
            scene.see(ended("r1"))
            await asyncio.sleep(1)
            await scene.supervisor.end("w")
            scene.see(ended("r1"))
            await asyncio.sleep(100)
            assert scene.supervisor.comes_back("c") is False
            assert scene.describe(WorkloadState.FAILED, 1).state is WorkloadState.FAILED
        assert scene.started == [0.0]

    virtually(main())


def test_what_is_not_meant_to_run_is_not_started(tmp_path: Path) -> None:
    """Whoever keeps the records says what may run; until then nothing is started, whatever the supervisor has seen."""

    async def main() -> None:
        scene = Scene(tmp_path)
        scene.may_run = False
        async with scene.supervisor:
            scene.see(ended("r0"))
            assert scene.supervisor.comes_back("c") is False
            assert scene.describe(WorkloadState.FAILED, 1).state is WorkloadState.FAILED
            await asyncio.sleep(100)
            assert scene.started == []
            scene.may_run = True
            scene.see(ended("r0"))
            await asyncio.sleep(1)
            assert len(scene.started) == 1
            scene.see(running("r1"))
            waiting = ended("r1")
            scene.see(waiting)
            await asyncio.sleep(1)
            scene.may_run = False
            scene.see(waiting)
            await asyncio.sleep(100)
        assert len(scene.started) == 1

    virtually(main())


def test_what_is_begun_again_is_kept_alive_again(tmp_path: Path) -> None:
    """After `end` and `begin` the next exit is followed by a start."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            await scene.supervisor.end("w")
            scene.see(ended("r0"))
            await asyncio.sleep(100)
            assert scene.started == []
            scene.supervisor.begin("w")
            scene.see(ended("r1"))
            await asyncio.sleep(100)
        assert len(scene.started) == 1

    virtually(main())


def test_to_end_a_workload_waits_for_a_start_under_way(tmp_path: Path) -> None:
    """When `end` returns no start is under way, so that what is stopped then stays so."""

    async def main() -> None:
        scene = Scene(tmp_path)

        async def slowly() -> None:
            await asyncio.sleep(5)

        scene.on_start = slowly
        async with scene.supervisor:
            scene.see(ended("r0"))
            await asyncio.sleep(1)
            await scene.supervisor.end("w")
            assert now() == 5.0
        assert scene.started == [0.0]

    virtually(main())


def test_a_later_supervisor_goes_on_with_the_back_off(tmp_path: Path) -> None:
    """What one supervisor decided another carries out at the same time, and counts it once."""

    async def main() -> None:
        first = Scene(tmp_path)
        async with first.supervisor:
            first.see(ended("r0"))
            await asyncio.sleep(1)
            first.see(running("r1"))
            waiting = ended("r1")
            first.see(waiting)
            await asyncio.sleep(4)
        second = Scene(tmp_path)
        async with second.supervisor:
            second.see(waiting)
            told = second.describe(WorkloadState.FAILED, 1)
            assert (told.state, told.reason, told.restart_count) == (WorkloadState.STARTING, CRASH_LOOP, 1)
            await asyncio.sleep(100)
            second.see(running("r2"))
            assert second.describe(WorkloadState.RUNNING).restart_count == 2
        assert second.started == [11.0]

    virtually(main())


def test_a_container_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    """A start that podman refuses is tried again after the back-off, and why is told."""

    async def main() -> None:
        scene = Scene(tmp_path)

        async def refuse() -> None:
            raise Refusal(500, "no more processes")

        scene.on_start = refuse
        async with scene.supervisor:
            scene.see(ended("r0"))
            await asyncio.sleep(15)
            assert "no more processes" in scene.describe(WorkloadState.FAILED, 1).message
            scene.on_start = None
            await asyncio.sleep(100)
        assert scene.started == [0.0, 10.0, 20.0]

    virtually(main())


def test_a_restart_is_told_as_what_it_is(tmp_path: Path) -> None:
    """An immediate restart is Restarting, not a crash loop; the component is starting, and tells how it ended."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(ended("r0", 3))
            told = scene.describe(WorkloadState.FAILED, 3)
            assert (told.state, told.reason) == (WorkloadState.STARTING, RESTARTING)
            assert "ended with 3 (Error)" in told.message
            assert told.exit_status == ExitStatus(exit_code=3, reason="Error")
            await asyncio.sleep(1)
            scene.see(running("r1"))
            told = scene.describe(WorkloadState.RUNNING)
            assert (told.reason, told.ready, told.restart_count) == ("", True, 1)
            assert told.last_exit is not None
            assert (told.last_exit.exit_code, told.last_exit.reason) == (3, "Error")

    virtually(main())


def test_an_unhealthy_container_is_stopped_and_failed_whatever_its_exit_code(tmp_path: Path) -> None:
    """A failed probe stops the container with the grace it asks for; exit 0 counts as a failure then."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(running("r0", policy=Policy.NEVER))
            verdict = Unhealthy(reason="LivenessProbeFailed", message="it said no", grace_seconds=7.0)
            scene.supervisor.probing.on_unhealthy("c", verdict)
            await asyncio.sleep(1)
            scene.see(ended("r0", 0, policy=Policy.NEVER))
            told = scene.describe(WorkloadState.SUCCEEDED, 0)
            assert (told.state, told.reason) == (WorkloadState.FAILED, "LivenessProbeFailed")
            assert told.exit_status is not None
            assert (told.exit_status.reason, told.exit_status.message) == ("LivenessProbeFailed", "it said no")
        assert scene.stopped == [(0.0, 7.0)]

    virtually(main())


def test_readiness_is_known_to_a_later_supervisor(tmp_path: Path) -> None:
    """Who was ready stays so when another supervisor comes, in the same run; in a new run it must prove it again."""

    async def main() -> None:
        first = Scene(tmp_path)
        async with first.supervisor:
            first.see(running("r0", probes=PROBED))
            told = first.describe(WorkloadState.RUNNING)
            assert (told.ready, told.started, told.reason) == (False, True, NOT_READY)
            first.supervisor.probing.on_result("c", True, True)
            await asyncio.sleep(0)
        second = Scene(tmp_path)
        async with second.supervisor:
            second.see(running("r0", probes=PROBED))
            assert second.describe(WorkloadState.RUNNING).ready is True
            second.see(running("r1", probes=PROBED))
            told = second.describe(WorkloadState.RUNNING)
            assert (told.ready, told.ready_once) == (False, True)

    virtually(main())


def test_what_is_gone_leaves_no_file(tmp_path: Path) -> None:
    """A workload that two readings do not have is forgotten, on disk too; one reading is not enough."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(ended("r0"))
            await asyncio.sleep(1)
            scene.see()
            await asyncio.sleep(1)
            assert scene.kept().of("c").history.restart_count == 1
            scene.see()
            await asyncio.sleep(1)

    virtually(main())
    assert list(tmp_path.glob("*")) == []


def test_a_file_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    """A damaged counter keeps no container from being restarted."""
    (tmp_path / "w.json").write_text("{")

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(ended("r0"))
            await asyncio.sleep(1)
        assert scene.started == [0.0]
        assert scene.kept().of("c").history.restart_count == 1

    virtually(main())


def test_who_waits_for_changes_is_told(tmp_path: Path) -> None:
    """A change of readiness, and a restart, wake whoever follows the changes."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            changes = scene.supervisor.changes()
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(1)
            assert not waiting.done()
            scene.see(running("r0"))
            await waiting
            await changes.aclose()  # type: ignore[attr-defined]  # it is a generator

    virtually(main())


def test_a_container_that_is_being_removed_is_not_started_again(tmp_path: Path) -> None:
    """Though its workload runs on; once it is gone, nothing is remembered of it."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(running("r0"))
            scene.supervisor.release(["c"])
            scene.see(ended("r0"))
            await asyncio.sleep(100)
            assert scene.started == []
            scene.see()
            scene.see(ended("r1"))  # another one of the same id can only be a new one
            await asyncio.sleep(100)
        assert len(scene.started) == 1

    virtually(main())


def test_who_has_lost_its_network_is_stopped_once_and_counts_as_failed(tmp_path: Path) -> None:
    """However often it is seen so; then its policy decides, also where it ended well."""

    async def main() -> None:
        scene = Scene(tmp_path)
        async with scene.supervisor:
            scene.see(running("r0", policy=Policy.ON_FAILURE))
            for _ in range(3):
                scene.supervisor.cut_off("c")
            await asyncio.sleep(1)
            scene.see(ended("r0", 0, policy=Policy.ON_FAILURE))
            await asyncio.sleep(1)
            scene.see(running("r1", policy=Policy.ON_FAILURE))
            told = scene.describe(WorkloadState.RUNNING)
            assert (told.restart_count, told.last_exit and told.last_exit.reason) == (1, "PodNetworkLost")
            scene.may_run = False
            scene.supervisor.cut_off("c")
            await asyncio.sleep(1)
        assert scene.stopped == [(0.0, 30.0)]
        assert len(scene.started) == 1

    virtually(main())
