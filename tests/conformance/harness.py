"""What an engine brings to the conformance suite: how its service is started, and workloads that it can run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, Self

from services.manifests import Format
from tests.harness.engines import NODE_A, EngineClient


class EngineHarness(Protocol):
    """One engine under test, with a backend of its own from `with` to its end (where nothing of it is left).

    `formats`: the manifests that the engine claims; the suite runs once for each.
    """

    formats: tuple[Format, ...]
    has_processes: bool
    """Whether a command inside a workload is a process that `ps` shows there."""
    image: str
    """The image, with a busybox, that its containers may run; empty where it runs none."""

    def __enter__(self) -> Self:
        """Make the backend ready, test images included."""

    def __exit__(self, *exc: object) -> None:
        """Delete all that the tests left."""

    def objects(self) -> set[str]:
        """All that its backend has, images left out; not asked where it runs no containers."""

    def serve(
        self, directory: Path, *, name: str = "engine", node_id: str = NODE_A
    ) -> AbstractAsyncContextManager[EngineClient]:
        """Start the engine's service, in this process or another, on `unix:<directory>/<name>.sock`.

        Its data is in `<directory>/<name>`: the same name is a restart, another one is another node's service on the
        same backend. No registry, no provider; polls and probes at least every second.
        """

    def workload(self, format_: Format, name: str) -> str:
        """A manifest of one workload, called `name`, that writes at least ten lines at once and runs until removed.

        It ends within a second of TERM.
        """

    def changed(self, format_: Format, name: str) -> str:
        """The same workload with other content."""
