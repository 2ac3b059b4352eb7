"""One deployment's life on a crash node: what its client asks, what goes wrong with it, what becomes of it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from tests.crash.node import ENGINES, CrashNode
from tests.crash.story import copies, image_of, records

OLD, NEW = "localhost/old:1", "localhost/new:1"
AWAY, BROKEN, NO = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION
WAIT_SECONDS = 15.0


def manifest(image: str, replicas: int = 1) -> str:
    """A Deployment of one container."""
    return (
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: {replicas}\n"
        "  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n"
        f"    spec:\n      containers:\n      - {{name: main, image: {image}}}\n"
    )


class Life:
    """What can be done with one deployment. Each kind of request keeps its request_id: asking again is a retry."""

    def __init__(self, node: CrashNode, name: str) -> None:
        self.node = node
        self.name = name
        self._request_ids: dict[str, str] = {}
        self._faults: dict[str, list[mock_pb.MockFault]] = {engine: [] for engine in ENGINES}

    # What its client asks

    def apply(
        self, image: str, *, replicas: int = 1, engine: str = "left", falls_back: bool = False, **more: Any
    ) -> pb.Deployment:
        """Apply and wait for what becomes of it. Raises grpc.RpcError."""
        policy = pb.FALLBACK_POLICY_COMPATIBLE if falls_back else pb.FALLBACK_POLICY_NONE
        request = pb.ApplyManifestRequest(
            deployment_id=self.name,
            manifest=types_pb2.Manifest(content=manifest(image, replicas)),
            engine_id=engine,
            fallback_policy=policy,
            request_id=self._request_id(f"apply {image} {replicas} {engine}"),
            **{"wait": Duration(seconds=int(WAIT_SECONDS)), **more},
        )
        answer: pb.ApplyManifestResponse = self.node.call(self.node.orchestrator.ApplyManifest, request)
        return answer.deployment

    def roll_back(self) -> pb.Deployment:
        """Go back to the last revision that was well."""
        request = pb.RollbackDeploymentRequest(name=self.name, request_id=self._request_id("roll back"))
        answer: pb.RollbackDeploymentResponse = self.node.call(self.node.orchestrator.RollbackDeployment, request)
        return answer.deployment

    def delete(self) -> pb.Deployment:
        """Delete it; that it is gone already is no error."""
        request = pb.DeleteDeploymentRequest(name=self.name, allow_missing=True)
        answer: pb.DeleteDeploymentResponse = self.node.call(self.node.orchestrator.DeleteDeployment, request)
        return answer.deployment

    def stop(self) -> pb.Deployment:
        """Stop and keep it."""
        request = pb.StopDeploymentRequest(name=self.name)
        answer: pb.StopDeploymentResponse = self.node.call(self.node.orchestrator.StopDeployment, request)
        return answer.deployment

    def start(self) -> pb.Deployment:
        """Start it again."""
        request = pb.StartDeploymentRequest(name=self.name)
        answer: pb.StartDeploymentResponse = self.node.call(self.node.orchestrator.StartDeployment, request)
        return answer.deployment

    def restart(self) -> pb.Deployment:
        """Restart it in place."""
        request = pb.RestartDeploymentRequest(name=self.name)
        answer: pb.RestartDeploymentResponse = self.node.call(self.node.orchestrator.RestartDeployment, request)
        return answer.deployment

    def _request_id(self, what: str) -> str:
        return self._request_ids.setdefault(what, uuid.uuid4().hex)

    # What goes wrong

    def fault(self, engine: str, method: str, code: grpc.StatusCode, *, after: int = 0) -> None:
        """From now on the engine answers so, `after` so many calls that it answers well."""
        if after:
            self._faults[engine].append(mock_pb.MockFault(method=method, remaining=after))
        self._faults[engine].append(mock_pb.MockFault(method=method, grpc_code=code.value[0], reason="SCRIPTED"))
        self._behave(engine)

    def lift(self) -> None:
        """All engines do as they are asked."""
        for engine, faults in self._faults.items():
            if faults and engine in self.node.running:
                faults.clear()
                self._behave(engine)

    def _behave(self, engine: str) -> None:
        request = mock_pb.SetMockBehaviorRequest(faults=self._faults[engine])
        self.node.call(self.node.mock(engine).SetMockBehavior, request)

    def script(self, state: workload_pb2.WorkloadState.ValueType) -> None:
        """What runs is in this state from now on; REMOVED: it vanishes behind everybody's back."""
        (copy,) = [copy for copy in copies(self.node) if copy.observation.ownership.deployment_id == self.name]
        workload_id = copy.observation.ownership.workload_id
        request = mock_pb.SetMockWorkloadRequest(workload_id=workload_id, state=state)
        self.node.call(self.node.mock(copy.engine).SetMockWorkload, request)

    # What becomes of it

    def find(self) -> pb.Deployment | None:
        """Its record; None when there is none."""
        return records(self.node).get(self.name)

    def manifest(self) -> str:
        """What its record wishes for."""
        answer = self.node.call(self.node.orchestrator.ExportDeployment, pb.ExportDeploymentRequest(name=self.name))
        content: str = answer.manifest.content
        return content

    def image(self) -> str:
        """The image that its record wishes for."""
        return image_of(self.manifest())

    def revisions(self) -> list[pb.DeploymentRevision]:
        """Its contents, newest first."""
        request = pb.ListDeploymentRevisionsRequest(name=self.name, page_size=100)
        return list(self.node.call(self.node.orchestrator.ListDeploymentRevisions, request).revisions)

    @property
    def generation(self) -> int:
        """How many changes of it were accepted; 0 when there is no record."""
        found = self.find()
        return found.generation if found is not None else 0

    def await_state(self, *states: pb.DeploymentState.ValueType) -> None:
        """Wait until it is in one of these."""

        def holds() -> bool:
            found = self.find()
            return found is not None and found.state in states

        self.node.until(
            holds, lambda: f"{self.name} is not {[pb.DeploymentState.Name(s) for s in states]}: {self.find()}"
        )

    def await_event(self, reason: str) -> None:
        """Wait until its history has this."""
        request = pb.ListDeploymentEventsRequest(name=self.name, page_size=1000)

        def holds() -> bool:
            if self.find() is None:
                return False
            answer = self.node.call(self.node.orchestrator.ListDeploymentEvents, request)
            return reason in {event.reason for event in answer.events}

        self.node.until(holds, lambda: f"{self.name} has no event {reason}")

    @contextmanager
    def meanwhile(self, ask: Callable[[Life], object]) -> Iterator[None]:
        """A client asks on the side; whatever it is answered, for a service may be killed before it answers."""

        def asking() -> None:
            try:
                ask(self)
            except grpc.RpcError:
                return

        thread = threading.Thread(target=asking, name=f"client of {self.name}")
        thread.start()
        try:
            yield
        finally:
            thread.join(30)
            assert not thread.is_alive()
