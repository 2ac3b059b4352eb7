"""The podman engine in the conformance suite."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Self

from services.engines.podman.settings import PodmanSettings
from services.engines.service import Program, run_engine
from services.manifests import Format
from tests.conformance.texts import written
from tests.harness.engines import NODE_A, EngineClient, running
from tests.harness.podman import IMAGE, PodmanMachine, skip_without_podman


class PodmanHarness:
    """All tests share one podman store of their own; each service has a podman service of its own on it."""

    formats: tuple[Format, ...] = (Format.KUBERNETES, Format.COMPOSE)
    has_processes = True
    image = IMAGE

    def __init__(self) -> None:
        self._machine = PodmanMachine()

    def __enter__(self) -> Self:
        with skip_without_podman():
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
        settings = PodmanSettings(
            listen=f"unix:{directory}/{name}.sock",
            data_dir=f"{directory}/{name}",
            registry="",
            provider="",
            node_id=node_id,
            probe_interval=1.0,
            poll_interval=1.0,
            observe_timeout=10.0,
        )
        service = self._machine.service(Path(settings.data_dir))
        program = Program(make_engine=lambda node_id: self._machine.engine(node_id, service=service))
        return running(settings.listen, lambda stop: run_engine(settings, program, stop))

    def workload(self, format_: Format, name: str) -> str:
        """A container that counts to twelve, then waits for its end."""
        return written(format_, name, "line")

    def changed(self, format_: Format, name: str) -> str:
        """It counts in other words."""
        return written(format_, name, "other line")
