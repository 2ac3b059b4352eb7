"""Nodes to be measured, and a client that applies to them as many at a time as it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from bench import machine
from scripts.client import Client
from scripts.local_node import LocalNode

CALL_SECONDS = 120.0

IMAGE = "localhost/beemesh-bench:1"
"""Busybox under a name of its own, which nobody else removes meanwhile."""

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels:
    app: {name}
spec:
  replicas: 1
  selector:
    matchLabels:
      app: {name}
  template:
    metadata:
      labels:
        app: {name}
    spec:
      containers:
        - name: web
          image: localhost/beemesh-busybox:1
          command: ["httpd", "-f", "-p", "8080"]
          ports:
            - containerPort: 8080
          env:
            - name: GREETING
              value: hello
          resources:
            limits:
              cpu: 100m
              memory: 32Mi
"""


@contextmanager
def node(engines: str, *, cores: set[int] | None = None, env: Mapping[str, str] | None = None) -> Iterator[LocalNode]:
    """A node whose engines can be used, on these cores; `env` is what it is told besides."""
    room = {"BEEMESH_CPU": "100000", "BEEMESH_MEMORY": str(10**14)}
    found = LocalNode(engines=engines, env=room | dict(env or {}))
    try:
        start(found, cores=cores)
        try:
            yield found
        finally:
            found.stop()
    finally:
        found.remove()


def start(local: LocalNode, *, cores: set[int] | None = None) -> float:
    """Start a node, and again one that was stopped; seconds until it said that it is ready."""
    began = time.perf_counter()
    if cores is None:
        local.start()
    else:
        with machine.on(cores):
            local.launch()
        local.await_ready()
    ready = time.perf_counter() - began
    with Client(local.socket) as client:
        _await_engines(client)
    return ready


def _await_engines(client: Client) -> None:
    request = registry_pb.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=10))
    until = time.monotonic() + CALL_SECONDS
    while not _all_available(client.call(client.registry.CheckAvailableEngines, request)):
        if time.monotonic() > until:
            raise TimeoutError("not every engine of the node can be used")
        time.sleep(0.05)


def _all_available(answer: registry_pb.CheckAvailableEnginesResponse) -> bool:
    return bool(answer.available) and all(answer.available.values())


class Applier:
    """A client of an OrchestratorService; `async with` closes its channel."""

    def __init__(self, target: str, *, engine: str = "mock") -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._engine = engine
        self.stub = pb_grpc.OrchestratorServiceStub(self._channel)

    async def __aenter__(self) -> Applier:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()

    async def apply(self, name: str, manifest: str = DEPLOYMENT) -> None:
        """Apply, until it is ACTIVE."""
        request = pb.ApplyManifestRequest(
            deployment_id=name,
            manifest=Manifest(content=manifest.replace("{name}", name)),
            engine_id=self._engine,
            wait=Duration(seconds=60),
        )
        answer = await self.stub.ApplyManifest(request, timeout=CALL_SECONDS)
        if answer.deployment.state != pb.DEPLOYMENT_STATE_ACTIVE:
            raise RuntimeError(f"{name} is {pb.DeploymentState.Name(answer.deployment.state)}")

    async def delete(self, name: str) -> None:
        """Delete, until it is gone."""
        request = pb.DeleteDeploymentRequest(name=name, wait=Duration(seconds=60), remove_volumes=True)
        answer = await self.stub.DeleteDeployment(request, timeout=CALL_SECONDS)
        if answer.deployment.state != pb.DEPLOYMENT_STATE_DELETED:
            raise RuntimeError(f"{name} is {pb.DeploymentState.Name(answer.deployment.state)}")


async def each(work: Callable[[str], Awaitable[None]], names: Sequence[str], *, in_flight: int) -> list[float]:
    """Do it for every name, so many at a time; the seconds that each took."""
    waiting = iter(names)
    took: list[float] = []

    async def one_after_the_other() -> None:
        for name in waiting:
            began = time.perf_counter()
            await work(name)
            took.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, len(names))):
            group.create_task(one_after_the_other())
    return took
