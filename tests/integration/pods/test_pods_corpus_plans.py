"""The corpus on every backend of Pods: a plan touches nothing, and what was deployed plans as nothing to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from services.engines.admission import DeployOrder
from services.engines.backend import Limits
from services.engines.deployer import RemoveOrder
from services.engines.engine import ChangeAction
from services.engines.keeper import Keeper
from services.engines.records import Records, Removal
from services.identity import workload_id
from tests.corpus import ROOT, Case, read
from tests.integration.pods.machine import PodMachine

pytestmark = pytest.mark.timeout(90)

QUICK = (
    "deployment-zero-replicas",  # nothing
    "multi-document",  # several pods
    "pod-init-containers",  # containers that are gone when the others run
    "pvc",  # a volume that stays
    "restart-never",  # a pod that has ended
)
"""One of each shape that a backend's objects can have."""
CASES = [read(ROOT / f"kubernetes/{name}.yaml") for name in QUICK]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
async def test_what_was_deployed_plans_as_nothing_to_do(
    machine: PodMachine, node_id: str, case: Case, tmp_path: Path
) -> None:
    """CREATE before, NONE after, and neither plan makes or removes any object of the backend."""
    order = DeployOrder(
        workload_id=workload_id(node=node_id, deployment="planned"), manifest_id="planned", text=case.text
    )
    async with machine.engine(node_id) as engine:
        keeper = Keeper(
            engine=engine, records=Records(tmp_path), clock=time.time, epoch="e", limits=Limits(observe=10.0)
        )
        async with keeper:
            before = machine.objects()
            assert (await keeper.plan(order)).action is ChangeAction.CREATE
            assert machine.objects() == before
            await keeper.deploy(order)
            try:
                deployed = machine.objects()
                planned = await keeper.plan(order)
                assert (planned.action, planned.changes) == (ChangeAction.NONE, ())
                assert machine.objects() == deployed
            finally:
                removal = Removal(grace_seconds=1, remove_volumes=True)
                await keeper.remove(RemoveOrder(workload_id=order.workload_id, removal=removal))
            assert machine.objects() == before
