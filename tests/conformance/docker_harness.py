"""The docker engine in the conformance suite."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Self

from services.engines.docker.engine import DockerEngine
from services.engines.docker.settings import DockerSettings
from services.engines.service import Program, run_engine
from services.manifests import Format
from tests.conformance.texts import written
from tests.harness.docker import IMAGE, DockerMachine, skip_without_docker
from tests.harness.engines import NODE_A, EngineClient, running


class DockerHarness:
    """All tests share one docker of their own."""

    formats: tuple[Format, ...] = (Format.COMPOSE, Format.KUBERNETES)
    has_processes = True
    image = IMAGE

    def __init__(self) -> None:
        self._machine = DockerMachine()

    def __enter__(self) -> Self:
        with skip_without_docker():
            self._machine.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._machine.__exit__()

    def objects(self) -> set[str]:
        """Containers, networks, volumes."""
        return self._machine.objects()

    def serve(
        self, directory: Path, *, name: str = "engine", node_id: str = NODE_A
    ) -> AbstractAsyncContextManager[EngineClient]:
        """In this process."""
        settings = DockerSettings(
            listen=f"unix:{directory}/{name}.sock",
            data_dir=f"{directory}/{name}",
            run_dir=f"{directory}/{name}-run",
            registry="",
            provider="",
            node_id=node_id,
            probe_interval=1.0,
            poll_interval=1.0,
            observe_timeout=10.0,
        )
        program = Program(make_engine=lambda node_id: self._engine(settings, node_id))
        return running(settings.listen, lambda stop: run_engine(settings, program, stop))

    def _engine(self, settings: DockerSettings, node_id: str) -> DockerEngine:
        return self._machine.engine(node_id, run_dir=Path(settings.run_dir), data_dir=Path(settings.data_dir))

    def workload(self, format_: Format, name: str) -> str:
        """It counts to twelve, then waits for its end."""
        return written(format_, name, "line")

    def changed(self, format_: Format, name: str) -> str:
        """It counts in other words."""
        return written(format_, name, "other line")
