"""One case for each engine and each format that it claims."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb

from services.manifests import Format
from tests.conformance.engines import ENGINES
from tests.conformance.harness import EngineHarness
from tests.harness.engines import NODE_A, EngineClient
from tests.harness.processes import short_directory

CASES = [(engine, format_) for engine, make in ENGINES.items() for format_ in make().formats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An engine, a format, and a workload of its own for one test."""

    harness: EngineHarness
    format: Format
    directory: Path
    name: str

    @property
    def workload_id(self) -> str:
        """The test's workload."""
        return f"beemesh-{self.name}-12345678"

    @property
    def text(self) -> str:
        """Its manifest."""
        return self.harness.workload(self.format, self.name)

    @property
    def changed(self) -> str:
        """Its manifest with other content."""
        return self.harness.changed(self.format, self.name)

    def serve(self, *, name: str = "engine", node_id: str = NODE_A) -> AbstractAsyncContextManager[EngineClient]:
        """The engine's service."""
        return self.harness.serve(self.directory, name=name, node_id=node_id)

    def deploy(self, text: str | None = None, **fields: Any) -> pb.DeployWorkloadRequest:
        """A request to deploy the test's workload."""
        request = pb.DeployWorkloadRequest(workload_id=self.workload_id, manifest_id=self.name, **fields)
        request.manifest.content = self.text if text is None else text
        return request


@pytest.fixture(scope="module")
def harnesses() -> Iterator[dict[str, EngineHarness]]:
    """The engines in use, each started when the first test needs it."""
    entered: dict[str, EngineHarness] = {}
    try:
        yield entered
    finally:
        for harness in entered.values():
            harness.__exit__(None, None, None)


def get_harness(harnesses: dict[str, EngineHarness], engine: str) -> EngineHarness:
    """The engine's, started when it is needed first."""
    if engine not in harnesses:
        harnesses[engine] = ENGINES[engine]().__enter__()
    return harnesses[engine]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].value}")
def case(request: pytest.FixtureRequest, harnesses: dict[str, EngineHarness]) -> Iterator[Case]:
    """One engine and format."""
    engine, format_ = request.param
    with short_directory() as directory:
        yield Case(
            harness=get_harness(harnesses, engine), format=format_, directory=directory, name=f"c{uuid.uuid4().hex[:8]}"
        )
