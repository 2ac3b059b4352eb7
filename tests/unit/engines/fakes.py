"""An engine in memory whose backend can fall silent, stall, fail and lose things; and a keeper around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from services.data_dir.files import write_atomically
from services.engines.backend import Limits
from services.engines.engine import (
    Capability,
    Change,
    Component,
    Config,
    Engine,
    Health,
    HealthState,
    Info,
    Issue,
    LogLine,
    LogQuery,
    LogSource,
    Observation,
    Spec,
    WorkloadState,
)
from services.engines.keeper import Keeper
from services.engines.records import Records
from services.errors import BeemeshError, NotFound, Unavailable
from services.identity import Ownership, hash_label
from services.manifests import Format, Manifest

NODE = "a" * 40
WORKLOAD = "beemesh-web-12345678"

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: main
    image: example:1
"""
OTHER_POD = POD.replace("example:1", "example:2")


class FakeClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.now


class FakeEngine(Engine):
    """Its backend is the dict `objects`; `asked` lists what was done to it."""

    def __init__(self) -> None:
        self.node_id = NODE
        self.objects: dict[str, Observation] = {}
        self.asked: list[str] = []
        self.issues: list[Issue] = []
        self.failures: dict[str, BeemeshError] = {}
        """By verb: raised instead of doing it."""
        self.gate = asyncio.Event()
        """Creates wait for it."""
        self.gate.set()
        self.silent = False
        """Reads never return."""
        self.created = asyncio.Event()
        self.last_destroy: tuple[float | None, bool, bool] | None = None
        self.formats = frozenset({Format.KUBERNETES})
        self.capabilities = {Capability.LOGS}
        self.in_place = False
        """Every change can be made in place."""

    @property
    def info(self) -> Info:
        """Runs Pods."""
        return Info(
            engine="fake",
            display_name="Fake",
            engine_version="1",
            capabilities=frozenset(self.capabilities),
            formats=self.formats,
            kinds=("Pod", "Deployment"),
        )

    async def probe(self) -> Health:
        """Always well."""
        return Health(state=HealthState.HEALTHY)

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """As scripted."""
        return self.issues

    async def prepare(self, spec: Spec) -> None:
        """Fails when told to."""
        if "prepare" in self.failures:
            raise self.failures["prepare"]

    async def create(self, spec: Spec) -> None:
        """One component a create, numbered."""
        self.asked.append("create")
        self.created.set()
        await self.gate.wait()
        if error := self.failures.get("create"):
            raise error
        number = self.asked.count("create")
        self.objects[spec.workload_id] = observed(spec.ownership, f"c{number}")

    async def observe(self) -> Mapping[str, Observation]:
        """All there is."""
        await self._answer()
        return dict(self.objects)

    async def observe_one(self, workload_id: str) -> Observation | None:
        """One of it."""
        await self._answer()
        return self.objects.get(workload_id)

    async def _answer(self) -> None:
        if self.silent:
            await asyncio.Event().wait()
        if error := self.failures.get("observe"):
            raise error

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """Delete it."""
        self.asked.append("destroy")
        self.last_destroy = (grace_seconds, force, remove_volumes)
        if error := self.failures.get("destroy"):
            raise error
        self.objects.pop(workload_id, None)

    def effect(self, change: Change, manifest: Manifest) -> str:
        """As scripted."""
        return "" if self.in_place else "replace"

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """The components stay, the label too."""
        self.asked.append("update")
        await self.gate.wait()
        if error := self.failures.get("update"):
            raise error

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """All components end, with an exit code that looks like a failure."""
        self.asked.append("stop")
        await self.gate.wait()
        self._power("stop", workload_id, WorkloadState.FAILED)

    async def start(self, workload_id: str) -> None:
        """All components run."""
        self.asked.append("start")
        await self.gate.wait()
        self._power("start", workload_id, WorkloadState.RUNNING)

    def _power(self, verb: str, workload_id: str, state: WorkloadState) -> None:
        if error := self.failures.get(verb):
            raise error
        found = self.objects[workload_id]
        self.objects[workload_id] = replace(found, components=tuple(replace(c, state=state) for c in found.components))

    async def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """One line."""
        if workload_id not in self.objects:
            raise NotFound("not here", reason="WORKLOAD_NOT_FOUND")
        yield [LogLine(component_id="c1", source=LogSource.STDOUT, time=1.0, text="hello")]


def observed(ownership: Ownership, *component_ids: str, state: WorkloadState = WorkloadState.RUNNING) -> Observation:
    """What a backend says of a workload: labels carry only the head of the hash."""
    return Observation(
        ownership=Ownership(
            node_id=ownership.node_id,
            deployment_id=ownership.deployment_id,
            workload_id=ownership.workload_id,
            manifest_hash=hash_label(ownership.manifest_hash),
        ),
        components=tuple(Component(component_id=i, display_name="main", state=state) for i in component_ids),
        create_time=1.0,
    )


def unreachable() -> Unavailable:
    """What an engine raises when its backend is down."""
    return Unavailable("the backend is down", reason="BACKEND_UNREACHABLE")


class Bench:
    """A keeper around a fake engine, with what a test needs to look at."""

    def __init__(
        self,
        directory: Path,
        engine: FakeEngine | None = None,
        *,
        drain: float = 30.0,
        write: Callable[[Path, bytes], None] = write_atomically,
    ) -> None:
        self.engine = engine or FakeEngine()
        self.clock = FakeClock()
        self.records = Records(directory / "workloads", write=write)
        self.why_unreachable = ""
        self.keeper = Keeper(
            engine=self.engine,
            records=self.records,
            clock=self.clock,
            epoch="run",
            unreachable=lambda: self.why_unreachable,
            limits=Limits(observe=0.05, refresh=0.05, poll=60.0, settle=0.0, drain=drain),
        )


@asynccontextmanager
async def bench(
    directory: Path,
    engine: FakeEngine | None = None,
    *,
    drain: float = 30.0,
    write: Callable[[Path, bytes], None] = write_atomically,
) -> AsyncIterator[Bench]:
    """A running keeper; a second one on the same directory and engine is a restart.

    `drain`: how long, in seconds, its end waits for operations under way; short cuts those that hang. `write`: how its
    records get to the disk.
    """
    made = Bench(directory, engine, drain=drain, write=write)
    async with made.keeper:
        yield made
