"""The mock engine: every kind of manifest, and a backend that is a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Self

from services.engines.admission import UNKNOWN_OPTION
from services.engines.diff import described, scales
from services.engines.engine import (
    Capability,
    Change,
    ComponentStats,
    Config,
    Engine,
    ExecOrder,
    ExecSession,
    Export,
    Health,
    HealthState,
    Info,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    PortMapping,
    Role,
    Severity,
    Spec,
    WorkloadState,
    place,
)
from services.engines.export import export
from services.engines.inside import pick
from services.engines.mock.backend import MockBackend, MockWorkload, Part, absent
from services.engines.mock.shell import MockSession
from services.errors import Unavailable
from services.manifests import Document, Format, Manifest

ENGINE_ID = "mock"

_INFO = Info(
    engine=ENGINE_ID,
    display_name="Mock",
    engine_version=version("beemesh"),
    backend_version="1",
    api_version="beemesh.engine.v1",
    capabilities=frozenset(Capability) - {Capability.INVOKE},  # it has no code to run
    formats=frozenset(Format),
    kinds=(
        "Pod",
        "Deployment",
        "ConfigMap",
        "Secret",
        "PersistentVolumeClaim",
        "Compose",
        "VirtualMachine",
        "Function",
    ),
)


class MockEngine(Engine):
    """Honours every field by keeping it; `health` is what it was told to be."""

    def __init__(self, *, node_id: str, backend: MockBackend, health: Callable[[], Health]) -> None:
        self.node_id = node_id
        self._backend = backend
        self._health = health

    async def __aenter__(self) -> Self:
        self._backend.load()
        return self

    @property
    def info(self) -> Info:
        """Identity and capabilities."""
        return _INFO

    async def probe(self) -> Health:
        """As scripted."""
        return self._health()

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """It has no options of its own, and nothing else that it would drop."""
        return [
            Issue(
                severity=Severity.ERROR,
                field_path=f"config.engine_options.{key}",
                reason=UNKNOWN_OPTION,
                message="engine mock has no options",
            )
            for key in sorted(config.engine_options)
        ]

    async def create(self, spec: Spec) -> None:
        """Make its components."""
        self._check_reachable()
        await self._backend.create(spec.ownership, parts(spec.manifest, spec.config), ports(spec.manifest))

    async def observe(self) -> Mapping[str, Observation]:
        """All of this node's."""
        self._check_reachable()
        return self._backend.of_node(self.node_id)

    async def observe_one(self, workload_id: str) -> Observation | None:
        """One of this node's."""
        self._check_reachable()
        workload = self._backend.find(self.node_id, workload_id)
        return workload.observation() if workload else None

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """Delete its components."""
        self._check_reachable()
        await self._backend.destroy(self.node_id, workload_id)

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """Its components end at once."""
        self._check_reachable()
        await self._backend.stop(self.node_id, workload_id)

    async def start(self, workload_id: str) -> None:
        """Its components run."""
        self._check_reachable()
        await self._backend.start(self.node_id, workload_id)

    def components(self, manifest: Manifest, config: Config) -> Sequence[str]:
        """All but the init ones."""
        return [place(part.replica, part.name) for part in parts(manifest, config) if part.role is Role.MAIN]

    def effect(self, change: Change, manifest: Manifest) -> str:
        """The number of replicas, and what only describes, need no new instance."""
        return "" if scales(change) or described(change)[0] else "replace"

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """Make or drop the difference."""
        self._check_reachable()
        await self._backend.update(new.ownership, parts(new.manifest, new.config), ports(new.manifest))

    @asynccontextmanager
    async def exec(self, workload_id: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
        """One of the few commands that it knows; see `MockSession`."""
        workload = self._find(workload_id)
        component = pick(workload_id, workload.components, order.component_id)
        with self._backend.running(component.component_id, order.command):
            yield MockSession(order)

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """The same for each component that runs."""
        workload, now = self._find(workload_id), self._backend.now()
        return [
            ComponentStats(
                component_id=component.component_id,
                sample_time=now,
                cpu_cores=0.01,
                memory_bytes=1 << 20,
                network_rx_bytes=0,
                network_tx_bytes=0,
            )
            for component in workload.components
            if component.state is WorkloadState.RUNNING
        ]

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        """As it was asked for."""
        return export(spec, observation)

    def _find(self, workload_id: str) -> MockWorkload:
        self._check_reachable()
        workload = self._backend.find(self.node_id, workload_id)
        if workload is None:
            raise absent(workload_id)
        return workload

    def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """Its lines."""
        self._check_reachable()
        return self._backend.read_logs(self.node_id, workload_id, query)

    def changes(self) -> AsyncIterator[None]:
        """After every change, scripted ones included."""
        return self._backend.changes()

    def _check_reachable(self) -> None:
        health = self._health()
        if health.state in (HealthState.UNHEALTHY, HealthState.UNDETECTED):
            raise Unavailable(
                f"the mock backend is scripted to be {health.state.name}", reason="BACKEND_UNREACHABLE", retry_after=1.0
            )


def parts(manifest: Manifest, config: Config) -> list[Part]:
    """The components that a manifest asks for: containers times replicas, services, one domain, one function."""
    found = []
    for document in manifest.documents:
        if document.is_workload:
            found += _PARTS[document.kind](document, config)
    return found


def ports(manifest: Manifest) -> list[PortMapping]:
    """The host ports that a Kubernetes manifest publishes."""
    return [
        PortMapping(
            container_port=int(port["containerPort"]),
            host_port=int(port["hostPort"]),
            host_ip=str(port.get("hostIP") or ""),
            protocol=str(port.get("protocol") or "TCP"),
        )
        for document in manifest.documents
        if document.kind in ("Pod", "Deployment")
        for container in _list(_pod_spec(document).get("containers"))
        for port in _list(container.get("ports"))
        if port.get("hostPort")
    ]


def _of_pods(document: Document, config: Config) -> list[Part]:
    wanted = 1 if document.kind == "Pod" else _count(_mapping(document.body.get("spec")).get("replicas"))
    replicas = wanted if config.replicas is None else config.replicas
    spec = _pod_spec(document)
    return [
        Part(name=str(container.get("name")), image=str(container.get("image")), replica=replica, role=role)
        for replica in range(replicas)
        for key, role in (("initContainers", Role.INIT), ("containers", Role.MAIN))
        for container in _list(spec.get(key))
    ]


def _of_services(document: Document, config: Config) -> list[Part]:
    found = []
    for name, service in _mapping(document.body.get("services")).items():
        wanted = _count(_mapping(_mapping(service).get("deploy")).get("replicas"))
        replicas = wanted if config.replicas is None else config.replicas
        image = str(_mapping(service).get("image") or "")
        found += [Part(name=str(name), image=image, replica=replica) for replica in range(replicas)]
    return found


def _of_machine(document: Document, config: Config) -> list[Part]:
    return _single(document, config, "image")


def _of_function(document: Document, config: Config) -> list[Part]:
    return _single(document, config, "runtime")


def _single(document: Document, config: Config, image_field: str) -> list[Part]:
    image = str(_mapping(document.body.get("spec")).get(image_field) or "")
    replicas = 1 if config.replicas is None else config.replicas
    return [Part(name=document.name, image=image, replica=replica) for replica in range(replicas)]


_PARTS: Mapping[str, Callable[[Document, Config], list[Part]]] = {
    "Pod": _of_pods,
    "Deployment": _of_pods,
    "Compose": _of_services,
    "VirtualMachine": _of_machine,
    "Function": _of_function,
}


def _pod_spec(document: Document) -> Mapping[str, Any]:
    spec = _mapping(document.body.get("spec"))
    return spec if document.kind == "Pod" else _mapping(_mapping(spec.get("template")).get("spec"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _count(value: object) -> int:
    """A number of replicas; 1 where none is said."""
    return value if isinstance(value, int) else 1
