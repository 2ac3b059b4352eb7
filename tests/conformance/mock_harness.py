"""The mock engine in the conformance suite."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Self

from services.engines.mock.backend import MockBackend
from services.manifests import Format
from tests.harness.engines import NODE_A, EngineClient, mock_backend, mock_engine

_TEXTS = {
    Format.KUBERNETES: """\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  containers:
  - name: main
    image: example:{tag}
""",
    Format.COMPOSE: """\
name: {name}
services:
  main:
    image: example:{tag}
""",
    Format.VIRTUAL_MACHINE: """\
apiVersion: beemesh.io/v1
kind: VirtualMachine
metadata:
  name: {name}
spec:
  image: example:{tag}
  vcpus: 1
  memory: 64Mi
  disk: 1Gi
""",
    Format.FUNCTION: """\
apiVersion: beemesh.io/v1
kind: Function
metadata:
  name: {name}
spec:
  runtime: python:3.{tag}
  handler: main.process
  memory: 64Mi
""",
}


class MockHarness:
    """Each test directory has a backend of its own; services in it share that."""

    formats = tuple(Format)
    has_processes = False
    image = ""

    def __init__(self) -> None:
        self._backends: dict[Path, MockBackend] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._backends.clear()

    def objects(self) -> set[str]:
        """It runs no containers."""
        return set()

    def serve(
        self, directory: Path, *, name: str = "engine", node_id: str = NODE_A
    ) -> AbstractAsyncContextManager[EngineClient]:
        """In this process."""
        backend = self._backends.setdefault(directory, mock_backend(directory))
        return mock_engine(directory, name=name, node_id=node_id, backend=backend)

    def workload(self, format_: Format, name: str) -> str:
        """Anything is a workload to the mock."""
        return _TEXTS[format_].format(name=name, tag=9)

    def changed(self, format_: Format, name: str) -> str:
        """Another image."""
        return _TEXTS[format_].format(name=name, tag=10)
