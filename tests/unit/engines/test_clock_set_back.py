"""A wall clock that is set back makes nothing that an engine tells a thing of the future."""

from __future__ import annotations

from pathlib import Path

from services.engines.admission import DeployOrder
from services.engines.engine import WorkloadState
from services.engines.listing import Listing
from tests.unit.engines.fakes import POD, WORKLOAD, bench

DAY = 86_400.0


async def test_what_was_seen_by_another_clock_is_not_seen_tomorrow(tmp_path: Path) -> None:
    """After a day back, a list says that it was seen now at the latest; and the workload goes on as before."""
    async with bench(tmp_path) as b:
        b.clock.now += DAY
        await b.keeper.deploy(DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD))
        await b.keeper.refresh()
        b.clock.now -= DAY
        (listed,) = (await b.keeper.list(Listing())).workloads
        assert (listed.state, listed.observe_time) == (WorkloadState.RUNNING, b.clock.now)
        await b.keeper.refresh()
        assert (await b.keeper.get(WORKLOAD)).observe_time == b.clock.now
