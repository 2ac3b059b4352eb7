"""Backend health: bounded probes, one at a time, transitions counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.engines.engine import Health, HealthState
from services.engines.monitor import HealthStatus, Monitor
from services.errors import Unavailable
from tests.unit.engines.fakes import FakeClock

WELL = Health(state=HealthState.HEALTHY)
SICK = Health(state=HealthState.UNHEALTHY, reason="CANARY_FAILED", message="no runtime")


class Probe:
    """A probe whose finding is scripted, and which can hang."""

    def __init__(self, finding: Health | Exception = WELL) -> None:
        self.finding = finding
        self.count = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self) -> Health:
        """One probe."""
        self.count += 1
        await self.go_on.wait()
        if isinstance(self.finding, Exception):
            raise self.finding
        return self.finding


def monitor(probe: Callable[[], Awaitable[Health]], clock: FakeClock, *, abandon: float = 60.0) -> Monitor:
    """A monitor that after its first probe probes only when told to."""
    return Monitor(probe=probe, clock=clock, interval=3600.0, timeout=0.02, epoch="run", abandon=abandon)


async def test_before_the_first_probe_nothing_is_known() -> None:
    """UNDETECTED, which is no proof that it cannot be reached."""
    status = monitor(Probe(), FakeClock()).status
    assert (status.health.state, status.health.reason) == (HealthState.UNDETECTED, "NOT_PROBED")
    assert status.why_unreachable == ""
    assert status.last_probe_time is None


async def test_transitions_and_flaps_are_counted() -> None:
    """The transition time is that of the last change of state; each loss of health is a flap."""
    probe, clock = Probe(), FakeClock()
    async with monitor(probe, clock) as m:
        seen = []
        for finding in (WELL, WELL, SICK, SICK, WELL, SICK):
            clock.now += 10
            probe.finding = finding
            status = await m.probe_now()
            seen.append((status.health.state.name, status.last_transition_time, status.flap_count))
            assert status.last_probe_time == clock.now
    assert seen == [
        ("HEALTHY", 1010.0, 0),
        ("HEALTHY", 1010.0, 0),
        ("UNHEALTHY", 1030.0, 1),
        ("UNHEALTHY", 1030.0, 1),
        ("HEALTHY", 1050.0, 1),
        ("UNHEALTHY", 1060.0, 2),
    ]


async def test_a_hanging_probe_is_unhealthy_and_no_second_is_started() -> None:
    """PROBE_TIMEOUT, however often it is asked; when the probe ends at last its finding heals the status."""
    probe, clock = Probe(), FakeClock()
    async with monitor(probe, clock) as m:
        await m.probe_now()
        probe.go_on.clear()
        for _ in range(3):
            status = await m.probe_now()
            assert (status.health.state, status.health.reason) == (HealthState.UNHEALTHY, "PROBE_TIMEOUT")
            assert status.why_unreachable != ""
        hanging = probe.count
        probe.go_on.set()
        async with asyncio.timeout(5):
            async for status in m.watch():
                if status.health.state is HealthState.HEALTHY:
                    break
        assert hanging == probe.count == 2
        assert m.status.flap_count == 1


async def test_a_probe_that_never_ends_is_given_up() -> None:
    """After the time to abandon it a fresh probe may start, and finds the backend well."""
    probe = Probe()
    probe.go_on.clear()
    async with monitor(probe, FakeClock(), abandon=0.03) as m:
        async with asyncio.timeout(5):
            while probe.count < 2:
                await m.probe_now()
        probe.go_on.set()
        async with asyncio.timeout(5):
            while (await m.probe_now()).health.state is not HealthState.HEALTHY:
                pass


async def test_probes_asked_for_at_once_are_one() -> None:
    """All callers share the probe under way."""
    probe = Probe()
    async with monitor(probe, FakeClock()) as m:
        await asyncio.gather(*(m.probe_now() for _ in range(10)))
    assert probe.count == 1


@pytest.mark.parametrize(
    ("error", "reason", "unreachable"),
    [
        (Unavailable("no socket", reason="SOCKET_UNREACHABLE"), "SOCKET_UNREACHABLE", True),
        (Unavailable("strange", reason="STRANGE"), "STRANGE", False),
        (ValueError("a defect"), "PROBE_FAILED", False),
    ],
)
async def test_a_probe_that_raises_is_unhealthy(error: Exception, reason: str, unreachable: bool) -> None:
    """With the error's reason; a defect's own text stays in the log."""
    async with monitor(Probe(error), FakeClock()) as m:
        status = await m.probe_now()
    assert (status.health.state, status.health.reason) == (HealthState.UNHEALTHY, reason)
    assert bool(status.why_unreachable) is unreachable
    assert "a defect" not in status.health.message


async def test_sick_is_not_unreachable() -> None:
    """A backend whose canary fails can still be asked what it has."""
    async with monitor(Probe(SICK), FakeClock()) as m:
        assert (await m.probe_now()).why_unreachable == ""


async def test_a_watch_has_the_status_at_once_and_then_every_change() -> None:
    """The same finding again is no change."""
    probe, clock = Probe(), FakeClock()
    seen: list[HealthStatus] = []

    async def watch(m: Monitor) -> None:
        async for status in m.watch():
            seen.append(status)
            if len(seen) == 3:
                return

    async with monitor(probe, clock) as m:
        await m.probe_now()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(watch(m))
            for finding in (WELL, SICK, SICK):
                await asyncio.sleep(0)
                probe.finding = finding
                await m.probe_now()
            m.drain()
    assert [s.health.state for s in seen] == [HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.DRAINING]
