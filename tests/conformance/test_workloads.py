"""One set of workloads on every engine that claims their format: what a user sees of them, to the last trace."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb

from services.manifests import Format
from tests.conformance import kubernetes
from tests.conformance.conftest import CASES, Case
from tests.conformance.engines import ENGINES
from tests.conformance.test_compose_workloads import WORKLOADS as COMPOSE_FILES
from tests.conformance.workloads import SECONDS, Deployed, Example, gap, gaps, met
from tests.harness.ports import free_port

WORKLOADS: Mapping[Format, Sequence[Example]] = {Format.KUBERNETES: kubernetes.EXAMPLES}


RUNS = [
    pytest.param(
        (engine, format_),
        example,
        id=f"{engine}-{format_.value}-{example.name}",
        marks=gap(engine, format_, example.name),
    )
    for engine, format_ in CASES
    if ENGINES[engine]().image
    for example in WORKLOADS.get(format_, ())
]


@pytest.mark.parametrize(("case", "example"), RUNS, indirect=["case"])
async def test_a_user_sees_the_same_on_every_engine(case: Case, example: Example) -> None:
    """States, logs, files, variables, limits, ports, exits and restarts are as expected; removed, nothing is left."""
    before = case.harness.objects()
    port = free_port()
    text = example.manifest(name=case.name, image=case.harness.image, port=port)
    async with case.serve() as client:
        deployed = Deployed(client=client, workload_id=case.workload_id, name=case.name, port=port)
        try:
            await client.engine.DeployWorkload(case.deploy(text), timeout=2 * SECONDS)
            await met(example.expects, deployed)
            for step in example.steps:
                await step.act(deployed)
                await met(step.expects, deployed)
        finally:
            request = pb.RemoveWorkloadRequest(workload_id=case.workload_id, remove_volumes=True, allow_missing=True)
            await client.engine.RemoveWorkload(request, timeout=SECONDS)
        await _until_traceless(case, before)


async def _until_traceless(case: Case, before: set[str]) -> None:
    """The engine's own canary, which comes and goes, is no trace."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    while (left := await asyncio.to_thread(case.harness.objects)) != before:
        assert loop.time() < end, left ^ before
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_known_gap_is_of_a_workload_that_there_is(engine: str) -> None:
    """Each gap has a reason, and names a workload of a format that the engine claims."""
    for format_, known in gaps(engine).items():
        assert format_ in {each.value for each in ENGINES[engine]().formats}
        there = {example.name for example in WORKLOADS.get(Format(format_), ())}
        assert known.keys() <= there | (COMPOSE_FILES.keys() if format_ == Format.COMPOSE.value else set())
        assert all(known.values())
