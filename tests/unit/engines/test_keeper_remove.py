"""Removing: an accepted removal is carried out, whatever happens in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.engines.admission import DeployOrder
from services.engines.deployer import RemoveOrder
from services.engines.engine import WorkloadState
from services.engines.records import Phase, Removal
from services.errors import Aborted, InvalidArgument, NotFound, Unavailable
from tests.unit.engines.fakes import POD, WORKLOAD, FakeEngine, bench, unreachable

ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)
REMOVE = RemoveOrder(workload_id=WORKLOAD)


async def test_a_removed_workload_is_gone(tmp_path: Path) -> None:
    """The answer is its last state; then it is NOT_FOUND to get, to remove and to read, and nothing is on disk."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        last = await b.keeper.remove(REMOVE)
        assert last is not None
        assert (last.state, last.components[0].component_id) == (WorkloadState.REMOVED, "c1")
        for call in (b.keeper.get(WORKLOAD), b.keeper.remove(REMOVE), b.keeper.inside.record(WORKLOAD)):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.reason == "WORKLOAD_NOT_FOUND"
        assert list((tmp_path / "workloads").iterdir()) == []


async def test_allow_missing_makes_a_second_removal_harmless(tmp_path: Path) -> None:
    """It answers with nothing instead of NOT_FOUND."""
    async with bench(tmp_path) as b:
        assert await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD, allow_missing=True)) is None


async def test_volumes_that_an_earlier_removal_kept_can_go_later(tmp_path: Path) -> None:
    """Asked to remove with volumes what is not there any more, the engine is asked all the same; else it is not."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.remove(REMOVE)
        b.engine.asked.clear()
        assert await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD, allow_missing=True)) is None
        assert "destroy" not in b.engine.asked
        later = RemoveOrder(workload_id=WORKLOAD, allow_missing=True, removal=Removal(remove_volumes=True))
        assert await b.keeper.remove(later) is None
        assert b.engine.last_destroy == (None, False, True)


async def test_grace_force_and_volumes_reach_the_engine(tmp_path: Path) -> None:
    """As they were asked."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        await b.keeper.remove(
            RemoveOrder(workload_id=WORKLOAD, removal=Removal(grace_seconds=1.5, force=True, remove_volumes=True))
        )
        assert b.engine.last_destroy == (1.5, True, True)


async def test_a_stale_etag_removes_nothing(tmp_path: Path) -> None:
    """A removal that was decided on an older state is ABORTED; with the right etag it is done."""
    async with bench(tmp_path) as b:
        done = await b.keeper.deploy(ORDER)
        with pytest.raises(Aborted):
            await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD, etag="stale"))
        assert WORKLOAD in b.engine.objects
        assert await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD, etag=done.workload.etag))


async def test_objects_without_a_record_can_be_removed(tmp_path: Path) -> None:
    """They are listed, and removing them works."""
    async with bench(tmp_path / "lost") as b:
        await b.keeper.deploy(ORDER)
    async with bench(tmp_path / "new", b.engine) as b:
        await b.keeper.remove(REMOVE)
        assert b.engine.objects == {}
        assert b.records.all() == []


async def test_an_accepted_removal_is_carried_out_when_the_backend_is_back(tmp_path: Path) -> None:
    """The caller learns that it waits; the next reading of the backend goes on with it, as it was asked."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.engine.failures["destroy"] = unreachable()
        with pytest.raises(Unavailable) as caught:
            await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD, removal=Removal(force=True)))
        assert caught.value.metadata["removal"] == "accepted"
        assert b.records.all()[0].phase is Phase.REMOVING
        b.engine.failures.clear()
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.STOPPING
        b.keeper.backend_changed()
        await until_gone(b.engine)
        assert b.engine.last_destroy == (None, True, False)


async def test_an_accepted_removal_is_carried_out_after_a_restart(tmp_path: Path) -> None:
    """The engine stopped before the backend was back: the next run of it finishes the removal."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.engine.failures["destroy"] = unreachable()
        with pytest.raises(Unavailable):
            await b.keeper.remove(REMOVE)
    b.engine.failures.clear()
    async with bench(tmp_path, b.engine) as b:
        await until_gone(b.engine)
    assert list((tmp_path / "workloads").iterdir()) == []


async def test_a_removal_waits_for_the_deploy_under_way(tmp_path: Path) -> None:
    """Nothing is left of what was being created."""
    async with bench(tmp_path) as b:
        b.engine.gate.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(b.keeper.deploy(ORDER))
            await b.engine.created.wait()
            removing = group.create_task(b.keeper.remove(REMOVE))
            b.engine.gate.set()
        assert removing.result() is not None
        assert b.engine.objects == {}


async def test_of_two_removals_at_once_one_finds_nothing(tmp_path: Path) -> None:
    """The second is NOT_FOUND."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        done = await asyncio.gather(b.keeper.remove(REMOVE), b.keeper.remove(REMOVE), return_exceptions=True)
        assert [type(answer).__name__ for answer in done] == ["Workload", "NotFound"]


async def test_without_the_backends_word_nothing_is_not_found(tmp_path: Path) -> None:
    """A workload that nothing is recorded of, while the backend is silent: UNAVAILABLE."""
    async with bench(tmp_path) as b:
        b.engine.silent = True
        with pytest.raises(Unavailable):
            await b.keeper.remove(REMOVE)


@pytest.mark.parametrize("bad", ["", "A", "../../etc", "a" * 58])
async def test_a_bad_id_is_an_invalid_argument(tmp_path: Path, bad: str) -> None:
    """No id becomes a path."""
    async with bench(tmp_path) as b:
        for call in (b.keeper.remove(RemoveOrder(workload_id=bad)), b.keeper.get(bad), b.keeper.inside.record(bad)):
            with pytest.raises(InvalidArgument):
                await call


async def until_gone(engine: FakeEngine) -> None:
    """Let the keeper's own tasks run until the backend has nothing."""
    async with asyncio.timeout(5):
        while engine.objects:
            await asyncio.sleep(0)
