"""The engines that the conformance suite runs on: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.conformance.docker_harness import DockerHarness
from tests.conformance.harness import EngineHarness
from tests.conformance.mock_harness import MockHarness
from tests.conformance.podman_harness import PodmanHarness
from tests.conformance.wasm_harness import WasmHarness

ENGINES: Mapping[str, Callable[[], EngineHarness]] = {
    "docker": DockerHarness,
    "mock": MockHarness,
    "podman": PodmanHarness,
    "wasm": WasmHarness,
}
