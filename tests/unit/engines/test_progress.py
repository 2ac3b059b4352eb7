"""How far a creation is, told while it is under way."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.engines.admission import DeployOrder
from services.engines.engine import WorkloadState
from services.engines.listing import Listing
from tests.unit.engines.fakes import POD, WORKLOAD, bench

ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)


async def test_a_creation_tells_what_it_takes_its_time_for(tmp_path: Path) -> None:
    """A workload that is being made is PENDING with what the engine says; once it runs, that is gone."""
    async with bench(tmp_path) as b:
        b.engine.gate.clear()
        deploying = asyncio.create_task(b.keeper.deploy(ORDER))
        await b.engine.created.wait()
        b.engine.tell(WORKLOAD, "pulling image a: 1.0 of 2.0 MB")
        for seen in (*(await b.keeper.list(Listing())).workloads, await b.keeper.get(WORKLOAD)):
            assert (seen.state, seen.state_message) == (WorkloadState.PENDING, "pulling image a: 1.0 of 2.0 MB")
            assert seen.reconciling
        b.engine.tell(WORKLOAD, "")
        assert (await b.keeper.get(WORKLOAD)).state_message == ""
        b.engine.gate.set()
        done = (await deploying).workload
        assert (done.state, done.state_message) == (WorkloadState.RUNNING, "")


async def test_what_is_told_too_late_or_of_nobody_changes_nothing(tmp_path: Path) -> None:
    """Progress of a workload that runs, or that nobody knows, is not shown."""
    async with bench(tmp_path) as b:
        done = (await b.keeper.deploy(ORDER)).workload
        b.engine.tell(WORKLOAD, "late")
        b.engine.tell("beemesh-nobody-00000000", "of nobody")
        (seen,) = (await b.keeper.list(Listing())).workloads
        assert seen == done
