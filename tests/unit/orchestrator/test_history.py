"""Events: written with the change they tell of, kept to a limit, and followed without gap or repeat."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from services.errors import InvalidArgument, OutOfRange, Unavailable
from services.orchestrator.history import DeploymentEvent, History
from services.orchestrator.model import State
from services.orchestrator.store import Store
from tests.unit.orchestrator.conftest import Start
from tests.unit.orchestrator.fakes import FakeEngines, view
from tests.unit.orchestrator.test_apply import ID, OTHER, applied


async def told(history: History, store: Store, name: str, reason: str) -> DeploymentEvent:
    event = history.event(name, reason)
    await store.commit(*history.statements(event))
    history.show(event)
    return event


async def test_a_deployments_life_can_be_read_from_its_events(start: Start) -> None:
    """An apply, an update through a fallback and a deletion each leave their trace, in order."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        await applied(core)
        await core.until(lambda: core.outbox.announced(ID))
        core.engines["podman"].fail_deploy = [Unavailable("cut", reason="BACKEND_UNREACHABLE")]
        assert (await applied(core, OTHER))[1] is State.ACTIVE
        await core.until(lambda: core.providers.said[ID]["runtime_engine"] == "docker")
        record = await core.applier.delete(ID)
        await core.operations.settled(ID, record.generation, 5)
        reasons = [event.reason for event in core.history.of(ID)]
        assert reasons[:3] == ["APPLY_ACCEPTED", "DEPLOYED", "ACTIVE"]
        for expected in ("ANNOUNCED", "FALLBACK", "FENCED", "ENGINE_SELECTED", "DELETION_ACCEPTED", "REMOVED"):
            assert expected in reasons


async def test_a_step_that_is_tried_again_and_again_is_told_of_once(start: Start) -> None:
    """A backend that stays away does not fill the history."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].fail_deploy = [Unavailable("down", reason="BACKEND_UNREACHABLE")] * 2
        await applied(core)
        await core.until(lambda: core.book.get(ID).state is State.ACTIVE)
        assert [event.reason for event in core.history.of(ID)].count("DEPLOY_DELAYED") == 1


async def test_only_the_newest_are_kept_and_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    """The table is bounded for each deployment; a number is never given twice."""
    async with Store(tmp_path / "x.db") as store:
        history = History(store=store, epoch="one", clock=lambda: 1.0, keep=3)
        for number in range(5):
            await told(history, store, "web", f"E{number}")
        await told(history, store, "other", "O")
        assert [event.reason for event in history.of("web")] == ["E2", "E3", "E4"]
        last = history.of("other")[0].sequence
    async with Store(tmp_path / "x.db") as store:
        history = History(store=store, epoch="two", clock=lambda: 1.0, keep=3)
        history.load()
        assert history.event("web", "E5").sequence > last


async def test_a_watch_resumes_over_a_restart_without_gap_or_repeat(tmp_path: Path) -> None:
    """The token of the last event seen is good in the next run; what it missed comes first, then what happens."""
    async with Store(tmp_path / "x.db") as store:
        history = History(store=store, epoch="one", clock=lambda: 1.0)
        events = [await told(history, store, "web", f"E{number}") for number in range(3)]
    async with Store(tmp_path / "x.db") as store:
        history = History(store=store, epoch="two", clock=lambda: 1.0)
        history.load()
        async with aclosing(history.watch("web", token=str(events[0].sequence))) as following:
            assert [(await anext(following)).reason for _ in range(2)] == ["E1", "E2"]
            await told(history, store, "other", "O")
            await told(history, store, "web", "E3")
            assert (await anext(following)).reason == "E3"


async def test_a_token_whose_events_are_gone_is_out_of_range(tmp_path: Path) -> None:
    """A gap is said, not hidden; a token that is none is refused."""
    async with Store(tmp_path / "x.db") as store:
        history = History(store=store, epoch="one", clock=lambda: 1.0, keep=2)
        first = await told(history, store, "web", "E0")
        for number in range(1, 4):
            await told(history, store, "web", f"E{number}")
        with pytest.raises(OutOfRange):
            await anext(history.watch("web", token=str(first.sequence)))
        with pytest.raises(InvalidArgument):
            await anext(history.watch("web", token="yesterday"))
