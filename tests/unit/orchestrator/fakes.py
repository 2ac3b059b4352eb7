"""Engines and a provider in memory, with faults on demand: fakes behind the orchestrator's ports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.errors import BeemeshError, NotFound, Unavailable
from services.orchestrator.model import (
    Action,
    Announced,
    Change,
    Config,
    Deployment,
    EngineView,
    Issue,
    Observed,
    Plan,
    Wish,
)
from services.orchestrator.steps import RUNNING, STOPPED, UNKNOWN, unreachable

KUBERNETES, COMPOSE, VIRTUAL_MACHINE, FUNCTION = 1, 2, 3, 4

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: main, image: "localhost/busybox:1"}
"""


def view(engine_id: str, **changes: object) -> EngineView:
    """A healthy engine with the formats of its kind."""
    formats = {
        "podman": {KUBERNETES, COMPOSE},
        "docker": {KUBERNETES, COMPOSE},
        "libvirt": {VIRTUAL_MACHINE},
        "wasm": {FUNCTION},
        "mock": {KUBERNETES, COMPOSE, VIRTUAL_MACHINE, FUNCTION},
    }.get(engine_id, {KUBERNETES})
    known = EngineView(
        engine_id=engine_id,
        endpoint=f"unix:/nowhere/{engine_id}.sock",
        formats=frozenset(formats),
        aliases=("qemu", "vm") if engine_id == "libvirt" else (),
    )
    return replace(known, **changes)  # type: ignore[arg-type]  # fields of EngineView


@dataclass
class FakeEngine:
    """One engine's backend: what runs there, and what goes wrong."""

    view: EngineView
    workloads: dict[str, tuple[str, int]] = field(default_factory=dict)
    """workload id → (canonical digest, state)."""
    volumes: set[str] = field(default_factory=set)
    """Workloads whose volumes are there."""
    incomplete: set[str] = field(default_factory=set)
    """Workloads that have lost a part."""
    late: bool = False
    """The kept view has not heard of anything yet."""
    misread: bool = False
    """They have not: asked again, the engine says so."""
    restarts: dict[str, int] = field(default_factory=dict)
    """By place: how often it was started again."""
    endings: dict[str, str] = field(default_factory=dict)
    """By place: how it ended before that."""
    manifests: dict[str, str] = field(default_factory=dict)
    issues: Sequence[Issue] = ()
    fail_deploy: list[BeemeshError] = field(default_factory=list)
    """Raised by the next deploys, one each."""
    fail_remove: list[BeemeshError] = field(default_factory=list)
    work_then_fail: bool = False
    """A failing deploy does the work all the same."""
    settles_in: int = RUNNING
    settles_once: int = 0
    """The state that the next deploy ends in; 0: `settles_in`."""
    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """Set: a deploy waits for it."""


class FakeEngines:
    """Implements `ports.Engines`."""

    def __init__(self, *views: EngineView, default: str = "") -> None:
        self.engines = {item.engine_id: FakeEngine(view=item) for item in views}
        self._default = default
        self.looks = 0
        """How often the kept view was looked at."""

    def __getitem__(self, engine_id: str) -> FakeEngine:
        return self.engines[engine_id]

    def copies(self, workload_id: str) -> list[str]:
        """The engines that hold a copy."""
        return [name for name, engine in self.engines.items() if workload_id in engine.workloads]

    def views(self) -> Mapping[str, EngineView]:
        return {name: engine.view for name, engine in self.engines.items()}

    def default(self) -> str:
        return self._default

    def observed(self, engine_id: str, workload_id: str) -> Observed | None:
        self.looks += 1
        engine = self.engines[engine_id]
        if not engine.view.available:
            return Observed(workload_id=workload_id, engine_id=engine_id, state=UNKNOWN)
        return None if engine.late else self._seen(engine, workload_id)

    def held(self, engine_id: str) -> Mapping[str, Observed] | None:
        engine = self.engines[engine_id]
        found = {name: self._seen(engine, name) for name in engine.workloads}
        return {name: item for name, item in found.items() if item} if engine.view.available else None

    async def kept(self, engine_id: str, workload_id: str) -> tuple[str, Config]:
        return self._reach(engine_id, "kept").manifests[workload_id], Config()

    async def wait_changed(self, workload_id: str, timeout: float) -> None:
        await asyncio.sleep(0)

    async def validate(self, engine_id: str, wish: Wish, *, warn: bool) -> Sequence[Issue]:
        return self._reach(engine_id, "validate").issues

    async def plan(self, engine_id: str, workload_id: str, wish: Wish) -> Plan:
        engine = self._reach(engine_id, "plan")
        held = engine.workloads.get(workload_id)
        if held is None or (workload_id in engine.incomplete and not engine.misread):
            return Plan(action=Action.CREATE, changes=(Change(action=Action.CREATE, target="pod"),))
        change = Change(action=Action.REPLACE, target="pod", field_path="digest", old_value=held[0])
        return (
            Plan(action=Action.REPLACE, changes=(change,))
            if held[0] != wish.canonical_digest
            else Plan(action=Action.NONE)
        )

    async def deploy(self, engine_id: str, deployment: Deployment) -> Observed:
        engine = self._reach(engine_id, "deploy")
        if engine.gate is not None:
            await engine.gate.wait()
        failure = engine.fail_deploy.pop(0) if engine.fail_deploy else None
        if failure is None or engine.work_then_fail:
            state, engine.settles_once = engine.settles_once or engine.settles_in, 0
            engine.workloads[deployment.workload_id] = (deployment.wish.canonical_digest, state)
            engine.incomplete.discard(deployment.workload_id)
            engine.volumes.add(deployment.workload_id)
        if failure is not None:
            raise failure
        seen = self._seen(engine, deployment.workload_id)
        assert seen is not None
        return seen

    async def fetch(self, engine_id: str, workload_id: str) -> Observed | None:
        return self._seen(self._reach(engine_id, "fetch"), workload_id)

    async def stop(self, engine_id: str, workload_id: str, *, grace_seconds: float | None) -> None:
        self._set(engine_id, "stop", workload_id, STOPPED)

    async def start(self, engine_id: str, workload_id: str) -> None:
        self._set(engine_id, "start", workload_id, RUNNING)

    async def restart(self, engine_id: str, workload_id: str, *, grace_seconds: float | None) -> None:
        self._set(engine_id, "restart", workload_id, RUNNING)

    def _set(self, engine_id: str, call: str, workload_id: str, state: int) -> None:
        engine = self._reach(engine_id, call)
        if workload_id not in engine.workloads:
            raise NotFound("not there", reason="WORKLOAD_NOT_FOUND")
        engine.workloads[workload_id] = (engine.workloads[workload_id][0], state)

    async def remove(self, engine_id: str, workload_id: str, *, remove_volumes: bool, force: bool) -> None:
        engine = self._reach(engine_id, "remove")
        if engine.fail_remove:
            raise engine.fail_remove.pop(0)
        engine.workloads.pop(workload_id, None)
        if remove_volumes:
            engine.volumes.discard(workload_id)

    def _reach(self, engine_id: str, call: str) -> FakeEngine:
        engine = self.engines.get(engine_id)
        if engine is None or not engine.view.available:
            raise unreachable(engine_id)
        engine.calls.append(call)
        return engine

    @staticmethod
    def _seen(engine: FakeEngine, workload_id: str) -> Observed | None:
        held = engine.workloads.get(workload_id)
        if held is None:
            return None
        digest, state = held
        return Observed(
            workload_id=workload_id,
            engine_id=engine.view.engine_id,
            state=state,
            digest=digest,
            incomplete=workload_id in engine.incomplete,
            restarts=dict(engine.restarts),
            endings=dict(engine.endings),
        )


class FakeProviders:
    """Implements `ports.Providers`."""

    def __init__(self) -> None:
        self.said: dict[str, Mapping[str, str]] = {}
        self.down = False

    async def announced(self) -> Sequence[str]:
        self._reach()
        return list(self.said)

    async def announce(self, manifest_id: str, text: Announced) -> None:
        self._reach()
        self.said[manifest_id] = dict(text.metadata)

    async def withdraw(self, manifest_id: str) -> None:
        self._reach()
        self.said.pop(manifest_id, None)

    def _reach(self) -> None:
        if self.down:
            raise Unavailable("the provider is down", reason="RPC_UNAVAILABLE")
