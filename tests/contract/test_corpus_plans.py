"""Every manifest of the corpus through a node: what was applied plans as nothing to do, and plans touch nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1 import types_pb2
from google.protobuf.descriptor_pb2 import MethodOptions

from tests.corpus import PARSE, Case, load
from tests.harness.calls import watched
from tests.harness.node import LocalNode, local_node
from tests.harness.processes import short_directory

pytestmark = pytest.mark.asyncio(loop_scope="module")

CASES = [
    case for folder in ("kubernetes", "compose", "beemesh") for case in load(folder) if case.verdict.judge != PARSE
]
READING = {
    method.name
    for method in engine_pb.DESCRIPTOR.services_by_name["EngineService"].methods
    if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
}
"""The methods that the contract itself says change nothing."""
ID = "case"
NONE, CREATE = types_pb2.CHANGE_ACTION_NONE, types_pb2.CHANGE_ACTION_CREATE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[LocalNode]:
    """One node for all of them; every call that its services make has a deadline."""
    with watched(), short_directory() as directory:
        async with local_node(directory) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module")
async def emptied(node: LocalNode) -> AsyncIterator[LocalNode]:
    """The node, with nothing on it before and after."""
    yield node
    gone = pb.DeleteDeploymentRequest(name=ID, allow_missing=True, remove_volumes=True)
    await node.orchestrator.DeleteDeployment(gone, timeout=10)
    await node.mock.ResetMock(mock_pb.ResetMockRequest(), timeout=10)


async def touched(node: LocalNode) -> list[str]:
    """The calls so far that may have changed something."""
    answer = await node.mock.ListMockCalls(mock_pb.ListMockCallsRequest(page_size=1000), timeout=5)
    assert not answer.next_page_token
    return [call.method for call in answer.calls if call.method not in READING]


async def plan(node: LocalNode, case: Case, **config: object) -> pb.PlanManifestResponse:
    request = pb.PlanManifestRequest(
        deployment_id=ID,
        engine_id="mock",
        manifest=types_pb2.Manifest(content=case.text),
        config=workload_pb2.DeploymentConfig(**config),  # type: ignore[arg-type]
    )
    answer: pb.PlanManifestResponse = await node.orchestrator.PlanManifest(request, timeout=10)
    return answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_was_applied_plans_as_nothing_to_do(emptied: LocalNode, case: Case) -> None:
    """CREATE before the apply, NONE after it, by the node and by the engine; only the apply changes anything."""
    node = emptied
    assert (await plan(node, case)).action == CREATE
    assert await touched(node) == []
    applied = await node.orchestrator.ApplyManifest(
        pb.ApplyManifestRequest(deployment_id=ID, engine_id="mock", manifest=types_pb2.Manifest(content=case.text)),
        timeout=10,
    )
    assert (applied.action, applied.deployment.state) == (CREATE, pb.DEPLOYMENT_STATE_ACTIVE)
    assert await touched(node) == ["DeployWorkload"]
    again = await plan(node, case)
    assert (again.action, list(again.changes), again.etag) == (NONE, [], applied.deployment.etag)
    of_the_engine = await node.engine.PlanWorkload(
        engine_pb.PlanWorkloadRequest(
            workload_id=applied.deployment.instances[0].workload_id, manifest=types_pb2.Manifest(content=case.text)
        ),
        timeout=10,
    )
    assert (of_the_engine.action, list(of_the_engine.changes)) == (NONE, [])
    assert (await plan(node, case, env={"CHANGED": "1"})).action not in (NONE, CREATE)
    assert await touched(node) == ["DeployWorkload"]
