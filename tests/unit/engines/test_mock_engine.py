"""What the mock engine makes of manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import manifests
from services.engines.engine import Config, Health, HealthState, LogLine, LogQuery, LogSource, Role
from services.engines.mock.backend import MockBackend, Part
from services.engines.mock.engine import MockEngine, parts, ports
from services.errors import DataLoss, NotFound, Unavailable
from services.identity import Ownership
from tests.unit.engines.fakes import NODE, POD, WORKLOAD, FakeClock

DEPLOYMENT = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: c
data:
  a: b
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: api
spec:
  replicas: 2
  selector:
    matchLabels: {app: api}
  template:
    metadata:
      labels: {app: api}
    spec:
      initContainers:
      - name: setup
        image: example:init
      containers:
      - name: main
        image: example:1
        ports:
        - containerPort: 80
          hostPort: 8080
          protocol: UDP
        - containerPort: 81
      - name: side
        image: example:2
"""
COMPOSE = """\
services:
  web:
    image: example:1
    deploy:
      replicas: 2
  db:
    image: example:2
"""
MACHINE = """\
apiVersion: beemesh.io/v1
kind: VirtualMachine
metadata:
  name: vm
spec:
  image: ubuntu:22.04
  vcpus: 2
  memory: 4Gi
  disk: 20Gi
"""
FUNCTION = """\
apiVersion: beemesh.io/v1
kind: Function
metadata:
  name: fn
spec:
  runtime: python:3.9
  handler: main.process
  memory: 512Mi
"""
OWNERSHIP = Ownership(node_id=NODE, deployment_id="web", workload_id=WORKLOAD, manifest_hash="sha256:" + "0" * 64)


def of_api(replica: int) -> list[Part]:
    """One replica of the Deployment."""
    return [
        Part(name="setup", image="example:init", replica=replica, role=Role.INIT),
        Part(name="main", image="example:1", replica=replica),
        Part(name="side", image="example:2", replica=replica),
    ]


@pytest.mark.parametrize(
    ("text", "replicas", "expected"),
    [
        (POD, None, [Part(name="main", image="example:1")]),
        (POD, 0, []),
        (DEPLOYMENT, None, [*of_api(0), *of_api(1)]),
        (DEPLOYMENT, 1, of_api(0)),
        (
            COMPOSE,
            None,
            [
                Part(name="web", image="example:1"),
                Part(name="web", image="example:1", replica=1),
                Part(name="db", image="example:2"),
            ],
        ),
        (MACHINE, None, [Part(name="vm", image="ubuntu:22.04")]),
        (FUNCTION, None, [Part(name="fn", image="python:3.9")]),
    ],
)
def test_a_manifest_has_components(text: str, replicas: int | None, expected: list[Part]) -> None:
    """Containers times replicas, services, one domain, one function; the config's replicas beat the manifest's."""
    assert parts(manifests.parse(text), Config(replicas=replicas)) == expected


def test_host_ports_are_published() -> None:
    """Those that have one, with their protocol."""
    assert [(p.container_port, p.host_port, p.protocol) for p in ports(manifests.parse(DEPLOYMENT))] == [
        (80, 8080, "UDP")
    ]
    assert ports(manifests.parse(COMPOSE)) == []


async def test_components_made_anew_have_new_ids(tmp_path: Path) -> None:
    """And those that were not keep theirs, also when the state is read back."""
    backend = loaded(tmp_path)
    await backend.create(OWNERSHIP, [Part(name="main", image="x")], [])
    first = backend.of_node(NODE)[WORKLOAD].components
    assert loaded(tmp_path).of_node(NODE)[WORKLOAD].components == first
    await backend.destroy(NODE, WORKLOAD)
    assert loaded(tmp_path).of_node(NODE) == {}
    await backend.create(OWNERSHIP, [Part(name="main", image="x")], [])
    assert backend.of_node(NODE)[WORKLOAD].components[0].component_id != first[0].component_id


async def test_lines_are_chosen_per_component(tmp_path: Path) -> None:
    """The tail counts for each component; a component may be named by id or display name; sources and time narrow."""
    backend = loaded(tmp_path)
    await backend.create(OWNERSHIP, [Part(name="a", image="x"), Part(name="b", image="x")], [])
    a = backend.of_node(NODE)[WORKLOAD].components[0]
    assert await texts(backend, LogQuery(tail_lines=1)) == ["a-0 line 10", "b-0 line 10"]
    for name in (a.component_id, "a"):
        assert await texts(backend, LogQuery(component_id=name, tail_lines=2)) == ["a-0 line 9", "a-0 line 10"]
    assert await texts(backend, LogQuery(sources=frozenset({LogSource.STDERR}))) == []
    assert await texts(backend, LogQuery(since_time=1000.009)) == ["a-0 line 10", "b-0 line 10"]
    with pytest.raises(NotFound) as caught:
        await texts(backend, LogQuery(component_id="c"))
    assert caught.value.reason == "COMPONENT_NOT_FOUND"


async def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    """It stops the start instead of looking like no workload."""
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataLoss, match=r"x\.json"):
        loaded(tmp_path)


async def test_a_sick_backend_answers_nothing(tmp_path: Path) -> None:
    """Every verb that needs it is UNAVAILABLE."""
    sick = Health(state=HealthState.UNHEALTHY, reason="BACKEND_UNREACHABLE")
    engine = MockEngine(node_id=NODE, backend=loaded(tmp_path), health=lambda: sick)
    assert (await engine.probe()) == sick
    for call in (
        engine.observe(),
        engine.observe_one(WORKLOAD),
        engine.destroy(WORKLOAD, grace_seconds=None, force=False, remove_volumes=False),
    ):
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable):
        engine.logs(WORKLOAD, LogQuery())


def loaded(directory: Path) -> MockBackend:
    """As a process that starts finds it."""
    backend = MockBackend(directory, clock=FakeClock())
    backend.load()
    return backend


async def texts(backend: MockBackend, query: LogQuery) -> list[str]:
    """The lines."""
    lines: list[LogLine] = []
    async for batch in backend.read_logs(NODE, WORKLOAD, query):
        lines += batch
    return [line.text for line in lines]
