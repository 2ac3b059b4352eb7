"""The docker engine in the conformance suite."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Self

from services.engines.docker.engine import DockerEngine
from services.engines.docker.settings import DockerSettings
from services.engines.service import Program, run_engine
from services.manifests import Format
from tests.conformance.kubernetes import COUNTING
from tests.harness.docker import IMAGE, DockerMachine, skip_without_docker
from tests.harness.engines import NODE_A, EngineClient, running

COMPOSE = """\
name: {name}
services:
  main:
    image: {image}
    command:
    - sh
    - -c
    - |
      for line in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "{word} $$line"; done
      trap 'exit 0' TERM
      while :; do sleep 0.1; done
"""


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
        """A service that counts to twelve, then waits for its end."""
        return self._write(format_, name, "line")

    def changed(self, format_: Format, name: str) -> str:
        """It counts in other words."""
        return self._write(format_, name, "other line")

    @staticmethod
    def _write(format_: Format, name: str, word: str) -> str:
        text = COUNTING if format_ is Format.KUBERNETES else COMPOSE
        return text.format(name=name, image=IMAGE, word=word)
