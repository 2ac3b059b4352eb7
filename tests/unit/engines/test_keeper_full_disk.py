"""A disk that is full when an engine notes what it does: nothing runs that no record knows, and it heals."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from services.data_dir.files import write_atomically
from services.engines.admission import DeployOrder
from services.engines.deployer import RemoveOrder
from services.engines.engine import ChangeAction, WorkloadState
from services.engines.keeper import Keeper
from services.engines.records import Phase
from services.errors import NotFound, ResourceExhausted
from tests.unit.engines.fakes import OTHER_POD, POD, WORKLOAD, bench
from tests.unit.engines.test_update import able

ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)
OTHER = replace(ORDER, text=OTHER_POD, allow_replace=True)


class Disk:
    """Takes so many writes and is then full, until it is told otherwise."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, path: Path, data: bytes) -> None:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= 1
        write_atomically(path, data)


async def refused(keeper: Keeper, order: DeployOrder) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as caught:
        await keeper.deploy(order)
    assert caught.value.reason == "DISK_FULL"
    return caught.value


async def test_without_room_for_the_intent_nothing_is_touched(tmp_path: Path) -> None:
    """The backend is not called, nothing is left, and with room the same order runs."""
    disk = Disk(room=0)
    async with bench(tmp_path, write=disk.write) as b:
        error = await refused(b.keeper, ORDER)
        assert "leftovers" not in error.metadata
        assert b.engine.asked == []
        with pytest.raises(NotFound):
            await b.keeper.get(WORKLOAD)
        disk.room = 9
        assert (await b.keeper.deploy(ORDER)).workload.state is WorkloadState.RUNNING


async def test_without_room_for_the_outcome_what_runs_is_on_record(tmp_path: Path) -> None:
    """Full between the creation and its note: it runs on, told as unfinished; asked again after a restart, it heals."""
    disk = Disk(room=1)
    async with bench(tmp_path, write=disk.write) as b:
        error = await refused(b.keeper, ORDER)
        assert error.metadata["leftovers"] == "true"
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.DEGRADED
        engine = b.engine
    disk.room = 9
    async with bench(tmp_path, engine, write=disk.write) as b:
        assert list(engine.objects) == [WORKLOAD]
        assert (await b.keeper.deploy(ORDER)).workload.state is WorkloadState.RUNNING
        await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD))
        assert engine.objects == {}


async def test_a_new_content_that_finds_no_room_leaves_the_old_running(tmp_path: Path) -> None:
    """No room for the intent of a replacement: what runs is not touched."""
    disk = Disk(room=2)
    async with bench(tmp_path, write=disk.write) as b:
        before = (await b.keeper.deploy(ORDER)).workload.components
        await refused(b.keeper, OTHER)
        assert (await b.keeper.get(WORKLOAD)).components == before


async def test_a_replacement_that_cannot_be_noted_is_not_taken_down(tmp_path: Path) -> None:
    """Full after the old one is gone and the new one runs: the new one runs on, and the next ask finishes it."""
    disk = Disk(room=3)
    async with bench(tmp_path, write=disk.write) as b:
        await b.keeper.deploy(ORDER)
        assert (await refused(b.keeper, OTHER)).metadata["leftovers"] == "true"
        assert list(b.engine.objects) == [WORKLOAD]
        disk.room = 9
        assert (await b.keeper.deploy(OTHER)).workload.state is WorkloadState.RUNNING


async def test_an_update_in_place_that_cannot_be_noted_is_not_called_taken_back(tmp_path: Path) -> None:
    """Full after the components were changed: the record does not say that they are as before; asked again, it is."""
    disk = Disk(room=3)
    async with bench(tmp_path, able(), write=disk.write) as b:
        await b.keeper.deploy(ORDER)
        disk.room = 1
        assert (await refused(b.keeper, OTHER)).metadata["leftovers"] == "true"
        record = b.records.peek(WORKLOAD)
        assert record is not None
        assert (record.phase, record.manifest) == (Phase.UPDATING, OTHER_POD)
        disk.room = 9
        done = await b.keeper.deploy(OTHER)
        assert (done.action, done.workload.state) == (ChangeAction.UPDATE_IN_PLACE, WorkloadState.RUNNING)
