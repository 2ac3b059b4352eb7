"""The prober: probes on time, changes told once, nobody delayed; on a loop whose clock leaps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.engines.probe_handlers import Handlers
from services.engines.prober import ProbeLimits, Prober
from services.engines.probes import Exec, Probe, Probes, Restart, Standing, TcpSocket
from services.errors import Internal, Unavailable
from services.rpc import deadline

Command = Callable[[], Awaitable[int]]


class LeapingSelector(selectors.SelectSelector):
    """Never waits: where it would, the time passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.wakeups = 0

    def select(self, timeout: float | None = None) -> Any:
        """What is ready; if nothing is, the clock leaps to the next timer."""
        self.wakeups += 1
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits, and nothing will ever happen"
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self.leaps = LeapingSelector()
        super().__init__(self.leaps)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.leaps.now


def virtually(main: Coroutine[Any, Any, None]) -> int:
    """Run it in virtual time; how often the loop woke up."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)
    return loop.leaps.wakeups


def now() -> float:
    """Virtual seconds."""
    return round(asyncio.get_running_loop().time(), 6)


class Containers:
    """Containers whose commands are scripted, and a note of all that was run and told."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}
        self.ran: list[tuple[float, str]] = []
        self.told: list[tuple[float, str, bool, bool]] = []
        self.restarts: list[tuple[float, str, Restart]] = []
        self.ended: list[str] = []

    async def exec(self, component_id: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run the script that the command's first word names."""
        self.ran.append((now(), command[0]))
        try:
            return await self.commands[command[0]](), "said something"
        finally:
            self.ended.append(command[0])

    async def dial(self, component_id: str, port: int) -> tuple[str, int]:
        """No container here has a port."""
        raise Internal("no ports", reason="NO_PORTS")

    def on_result(self, component_id: str, ready: bool, started: bool) -> None:
        """Note it."""
        self.told.append((now(), component_id, ready, started))

    def on_restart(self, component_id: str, restart: Restart) -> None:
        """Note it."""
        self.restarts.append((now(), component_id, restart))

    def times(self, command: str) -> list[float]:
        """When this command was run."""
        return [time for time, ran in self.ran if ran == command]

    def prober(self, *, limits: ProbeLimits | None = None) -> Prober:
        """A prober of these containers."""
        return Prober(check=Handlers(self).check, on_result=self.on_result, on_restart=self.on_restart, limits=limits)


def exits(*codes: int) -> Command:
    """A command that exits so, one after the other, and then like the last."""
    left = list(codes)

    async def command() -> int:
        return left.pop(0) if len(left) > 1 else left[0]

    return command


def takes(seconds: float, code: int = 0) -> Command:
    """A command that takes its time."""

    async def command() -> int:
        await asyncio.sleep(seconds)
        return code

    return command


def fails(error: Exception) -> Command:
    """A command that cannot be run."""

    async def command() -> int:
        raise error

    return command


def probe(command: str, **fields: Any) -> Probe:
    """An exec probe."""
    return Probe(handler=Exec(command=(command,)), **fields)


def test_a_container_without_probes_is_ready_at_once() -> None:
    """And not ready once it ends."""
    seen = Containers()

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", Probes(), run="1")
            assert prober.standing("web") == Standing(ready=True, started=True)
            await asyncio.sleep(100)
            prober.end("web")
            prober.end("web")
            assert prober.standing("web") is None

    virtually(main())
    assert seen.told == [(0, "web", True, True), (100, "web", False, False)]


def test_startup_then_readiness_each_told_when_it_changes() -> None:
    """Nothing is told twice, and times are exact."""
    seen = Containers()
    seen.commands = {"boot": exits(1, 1, 0), "live": exits(0), "ready": exits(1, 0, 0, 1, 1, 0)}
    probes = Probes(
        startup=probe("boot", initial_delay=3, period=5),
        liveness=probe("live", period=20),
        readiness=probe("ready", period=4, failure_threshold=2),
    )

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", probes, run="1")
            await asyncio.sleep(41)

    virtually(main())
    assert seen.times("boot") == [3, 8, 13]
    assert seen.times("live") == [13, 40]
    assert seen.times("ready") == [13, 16, 20, 24, 28, 32, 36, 40]
    assert seen.told == [
        (13, "web", False, True),
        (16, "web", True, True),
        (28, "web", False, True),
        (32, "web", True, True),
    ]
    assert seen.restarts == []


def test_a_failing_liveness_probe_restarts_once_and_the_new_run_counts_anew() -> None:
    """The restart carries the probe's grace period; the same run is not restarted again."""
    seen = Containers()
    seen.commands = {"live": exits(7)}
    probes = Probes(liveness=probe("live", grace_seconds=2))

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", probes, run="1")
            await asyncio.sleep(100)
            prober.begin("web", probes, run="2")
            await asyncio.sleep(100)

    virtually(main())
    assert seen.times("live") == [0, 10, 20, 100, 110, 120]
    restart = Restart(
        reason="LivenessProbeFailed",
        message="Liveness probe failed: exit code 7: said something",
        grace_seconds=2,
    )
    assert seen.restarts == [(20, "web", restart), (120, "web", restart)]
    assert seen.told == [(0, "web", True, True), (100, "web", False, False), (100, "web", True, True)]


def test_a_failing_startup_probe_restarts_and_nothing_else_ran() -> None:
    """Liveness and readiness had to wait."""
    seen = Containers()
    seen.commands = {"boot": exits(1), "live": exits(0), "ready": exits(0)}
    probes = Probes(startup=probe("boot", failure_threshold=2), liveness=probe("live"), readiness=probe("ready"))

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", probes, run="1")
            await asyncio.sleep(100)

    virtually(main())
    assert seen.ran == [(0, "boot"), (10, "boot")]
    assert [restart.reason for _, _, restart in seen.restarts] == ["StartupProbeFailed"]
    assert seen.told == []


def test_a_command_that_hangs_is_ended_by_its_timeout_and_has_failed() -> None:
    """The timeout is the probe's own."""
    seen = Containers()
    seen.commands = {"live": takes(3600)}

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", Probes(liveness=probe("live", timeout=4, failure_threshold=2)), run="1")
            await asyncio.sleep(100)
            assert seen.ended == ["live", "live"]

    virtually(main())
    assert [(time, restart.message) for time, _, restart in seen.restarts] == [
        (14, "Liveness probe failed: no answer within 4 s")
    ]


def test_an_engine_that_notices_the_timeout_itself_says_so_by_timeout_error() -> None:
    """It is a failure of the container like any other."""
    seen = Containers()
    seen.commands = {"live": fails(TimeoutError())}

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", Probes(liveness=probe("live", failure_threshold=1)), run="1")
            await asyncio.sleep(1)

    virtually(main())
    assert len(seen.restarts) == 1


def test_a_slow_probe_delays_no_other() -> None:
    """Neither of the same container nor of another."""
    seen = Containers()
    seen.commands = {"slow": takes(25), "ready": exits(0), "other": exits(0)}
    probes = Probes(liveness=probe("slow", timeout=30), readiness=probe("ready"))

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", probes, run="1")
            prober.begin("db", Probes(readiness=probe("other")), run="1")
            await asyncio.sleep(31)

    virtually(main())
    assert seen.times("slow") == [0, 30]
    assert seen.times("ready") == seen.times("other") == [0, 10, 20, 30]


def test_only_so_many_run_at_once_and_waiting_is_not_held_against_a_container() -> None:
    """Four that take 0.9 of their 1 s each, two at a time: all succeed."""
    seen = Containers()
    running, most = 0, 0

    async def busy() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.9)
        running -= 1
        return 0

    seen.commands = {"busy": busy}

    async def main() -> None:
        async with seen.prober(limits=ProbeLimits(commands=2)) as prober:
            for name in "abcd":
                prober.begin(name, Probes(readiness=probe("busy")), run="1")
            await asyncio.sleep(9)

    virtually(main())
    assert most == 2
    assert seen.times("busy") == [0, 0, 0.9, 0.9]
    assert {name for _, name, ready, _ in seen.told if ready} == set("abcd")


def test_commands_and_connections_wait_in_lines_of_their_own() -> None:
    """Hanging commands do not keep a port from being asked."""
    seen = Containers()
    seen.commands = {"slow": takes(3600)}
    ask = Probe(handler=TcpSocket(port=80))

    async def main() -> None:
        async with seen.prober(limits=ProbeLimits(commands=1)) as prober:
            prober.begin("web", Probes(readiness=probe("slow", timeout=3600)), run="1")
            prober.begin("db", Probes(readiness=ask), run="1")
            await asyncio.sleep(1)
            standing = prober.standing("db")
            assert standing is not None
            assert standing.message == "Readiness probe: no ports"

    virtually(main())


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the backend is down", reason="BACKEND_UNREACHABLE"),
        ConnectionRefusedError("an error that the engine forgot to translate"),
        RuntimeError("a defect"),
    ],
)
def test_a_probe_that_cannot_be_run_is_not_held_against_the_container(error: Exception) -> None:
    """It stays as it is, and when the backend answers again the count begins there."""
    seen = Containers()
    seen.commands = {"probe": exits(0)}
    same = probe("probe", failure_threshold=1)

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", Probes(liveness=same, readiness=same), run="1")
            await asyncio.sleep(1)
            seen.commands["probe"] = fails(error)
            await asyncio.sleep(200)
            assert seen.restarts == []
            standing = prober.standing("web")
            assert standing is not None
            assert standing.ready
            assert standing.message != ""
            seen.commands["probe"] = exits(1)
            await asyncio.sleep(10)

    virtually(main())
    assert len(seen.restarts) == 1
    assert [ready for _, _, ready, _ in seen.told] == [False, True, False]


def test_an_address_that_is_not_learnt_in_time_is_not_held_against_the_container() -> None:
    """The backend is silent; whether the container is well is not known."""

    class Silent(Containers):
        async def dial(self, component_id: str, port: int) -> tuple[str, int]:
            await asyncio.sleep(3600)
            return "", 0

    seen = Silent()

    async def main() -> None:
        async with seen.prober() as prober:
            liveness = Probe(handler=TcpSocket(port=80), failure_threshold=1, timeout=2)
            prober.begin("web", Probes(liveness=liveness), run="1")
            await asyncio.sleep(100)
            standing = prober.standing("web")
            assert standing is not None
            assert standing.message == "Liveness probe: the address of web could not be learnt within 2 s"

    virtually(main())
    assert seen.restarts == []


def test_a_repeated_begin_of_the_same_run_changes_nothing() -> None:
    """An engine may begin whatever it sees running, each time that it looks."""
    seen = Containers()
    seen.commands = {"ready": exits(0)}

    async def main() -> None:
        async with seen.prober() as prober:
            for _ in range(29):
                prober.begin("web", Probes(readiness=probe("ready")), run="1")
                await asyncio.sleep(1)
            assert prober.followed == {"web"}

    virtually(main())
    assert seen.times("ready") == [0, 10, 20]
    assert seen.told == [(0, "web", False, True), (0, "web", True, True)]


def test_an_end_cancels_the_probe_under_way() -> None:
    """The container is being stopped; it is not ready from now on, and nothing more is run in it."""
    seen = Containers()
    seen.commands = {"slow": takes(5), "ready": exits(0)}

    async def main() -> None:
        async with seen.prober() as prober:
            probes = Probes(liveness=probe("slow", timeout=10), readiness=probe("ready"))
            prober.begin("web", probes, run="1")
            await asyncio.sleep(1)
            prober.end("web")
            await asyncio.sleep(0.001)
            assert seen.ended == ["ready", "slow"]
            await asyncio.sleep(100)

    virtually(main())
    assert seen.ran == [(0, "slow"), (0, "ready")]
    assert seen.told == [(0, "web", False, True), (0, "web", True, True), (1, "web", False, False)]


def test_leaving_the_prober_ends_all_of_it() -> None:
    """Also a probe that hangs; the containers run on, so nothing is told."""
    seen = Containers()
    seen.commands = {"slow": takes(3600)}

    async def main() -> None:
        async with seen.prober() as prober:
            prober.begin("web", Probes(liveness=probe("slow", timeout=3600)), run="1")
            await asyncio.sleep(1)
        assert now() == 1

    virtually(main())
    assert seen.ended == ["slow"]
    assert seen.told == [(0, "web", True, True)]


def test_a_container_found_running_is_past_its_initial_delay() -> None:
    """It is probed at once, not `initialDelaySeconds` after us, and stands as it stood."""
    seen = Containers()
    seen.commands = {"boot": exits(1), "ready": exits(0)}
    probes = Probes(startup=probe("boot"), readiness=probe("ready", initial_delay=60))

    async def main() -> None:
        async with seen.prober() as prober:
            was = Standing(ready=True, started=True)
            prober.begin("old", probes, run="1", age=1003, standing=was)
            prober.begin("new", replace(probes, startup=None), run="1", age=15)
            await asyncio.sleep(50)

    virtually(main())
    assert seen.times("boot") == []
    assert seen.times("ready") == [0, 7, 17, 27, 37, 45, 47]
    assert seen.told == [(0, "old", True, True), (0, "new", False, True), (45, "new", True, True)]


@pytest.mark.parametrize("which", ["on_result", "on_restart"])
def test_a_callback_that_fails_ends_nothing(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defect is logged; probing goes on."""
    seen = Containers()
    seen.commands = {"probe": exits(0, 1)}

    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(seen, which, broken)

    async def main() -> None:
        async with seen.prober() as prober:
            same = probe("probe", failure_threshold=1)
            prober.begin("web", Probes(liveness=same), run="1")
            prober.begin("db", Probes(readiness=probe("probe")), run="1")
            await asyncio.sleep(35)

    virtually(main())
    assert seen.times("probe") == [0, 0, 10, 10, 20, 30]


def test_a_callback_may_end_and_begin_what_it_is_told_of() -> None:
    """Told of a failed probe, an engine may restart at once."""
    seen = Containers()
    seen.commands = {"boot": exits(1), "live": exits(1)}
    runs: list[str] = []

    async def main() -> None:
        def again(component_id: str, restart: Restart) -> None:
            runs.append(restart.reason)
            prober.end(component_id)
            if len(runs) < 3:
                prober.begin(component_id, Probes(**{kind: failing}), run=f"{len(runs)}")

        for kind in ("startup", "liveness"):
            failing = probe("boot", failure_threshold=1)
            async with Prober(check=Handlers(seen).check, on_result=seen.on_result, on_restart=again) as prober:
                prober.begin("web", Probes(**{kind: failing}), run="0")
                await asyncio.sleep(100)
                assert prober.followed == frozenset()
            assert runs == [f"{kind.title()}ProbeFailed"] * 3
            runs.clear()

    virtually(main())
    assert len(seen.times("boot")) == 6


def test_the_deadline_of_the_request_that_began_it_does_not_bound_a_probe() -> None:
    """A container outlives the request that made it."""
    seen = Containers()
    budgets: list[float] = []

    async def command() -> int:
        budgets.append(deadline.budget(1000.0))
        return 0

    seen.commands = {"live": command}

    async def main() -> None:
        async with seen.prober() as prober:
            deadline.enter(0.5)
            prober.begin("web", Probes(liveness=probe("live")), run="1")
            await asyncio.sleep(1)

    virtually(main())
    assert budgets == [1000.0]


def test_a_hundred_containers_cost_nothing_between_their_probes() -> None:
    """An hour of 110 pods with two probes each: every probe ran on its beat, and the loop woke for little else."""
    seen = Containers()
    seen.commands = {"live": exits(0), "ready": exits(0)}
    pods = [f"pod-{n}" for n in range(110)]

    async def main() -> None:
        async with seen.prober() as prober:
            for index, pod in enumerate(pods):
                probes = Probes(liveness=probe("live"), readiness=probe("ready"))
                prober.begin(pod, probes, run="1", age=index * 0.1)
            await asyncio.sleep(3600)

    wakeups = virtually(main())
    assert len(seen.ran) == pytest.approx(2 * len(pods) * 360, rel=0.01)
    assert wakeups < 3 * len(seen.ran)
    assert_told_once(seen.told, pods)


def assert_told_once(told: Iterable[tuple[float, str, bool, bool]], pods: Sequence[str]) -> None:
    """Each became ready once, and nothing else was told."""
    assert sorted(name for _, name, ready, _ in told if ready) == sorted(pods)
    assert len([1 for _, _, ready, _ in told if not ready]) == len(pods)
