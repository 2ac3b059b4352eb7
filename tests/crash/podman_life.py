"""A deployment on a node with real podman: asked for over connections of their own, and looked at by podman itself."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode, send
from services import identity

SOON = 60.0
"""Seconds within which what must happen happens, on a busy machine."""

_LOOK_SECONDS = 0.1
_ACTIVE = (pb.DEPLOYMENT_STATE_ACTIVE, pb.DEPLOYMENT_STATE_ROLLED_BACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container that podman has, infra included."""

    name: str
    running: bool
    pid: int
    conmon: int
    """The process that holds it."""
    start_time: str
    restarts: int


class PodmanLife:
    """What can be done with one deployment, and what becomes of it."""

    def __init__(self, node: LocalNode, name: str) -> None:
        self.node = node
        self.name = name

    # What its client asks

    def apply(self, manifest: str, *, wait: float = SOON, **more: Any) -> pb.Deployment:
        """Apply; the same content again has the same request_id. Raises grpc.RpcError."""
        request = pb.ApplyManifestRequest(
            deployment_id=self.name,
            manifest=types_pb2.Manifest(content=manifest),
            request_id=str(uuid.uuid5(uuid.NAMESPACE_URL, self.name + manifest)),
            wait=Duration(seconds=int(wait)),
            **more,
        )
        answer: pb.ApplyManifestResponse = self.call("ApplyManifest", request, seconds=wait + 10)
        return answer.deployment

    def stop(self) -> None:
        """Stop and keep it."""
        self.call("StopDeployment", pb.StopDeploymentRequest(name=self.name))

    def delete(self, *, wait: float = SOON) -> None:
        """Delete it; that it is gone already is no error."""
        request = pb.DeleteDeploymentRequest(name=self.name, allow_missing=True, wait=Duration(seconds=int(wait)))
        self.call("DeleteDeployment", request)

    def call(self, method: str, request: Any, *, seconds: float = SOON) -> Any:
        """One call, and again while the answer is UNAVAILABLE, as any client would; each on a connection of its own.

        Raises grpc.RpcError.
        """
        end = time.monotonic() + seconds
        while True:
            with Client(self.node.socket) as client:
                try:
                    return client.call(getattr(client.orchestrator, method), request, seconds=seconds)
                except grpc.RpcError as error:
                    caught: Any = error  # the error of a synchronous call is the call, too
                    if caught.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                        raise
            time.sleep(_LOOK_SECONDS)

    # What becomes of it

    def find(self) -> pb.Deployment | None:
        """Its record; None when there is none, or nobody can say."""
        try:
            found: pb.Deployment = self.call("GetDeployment", pb.GetDeploymentRequest(name=self.name)).deployment
        except grpc.RpcError:
            return None
        return found

    def is_in(self, *states: pb.DeploymentState.ValueType) -> bool:
        """Whether it is in one of these now, whatever goes on."""
        found = self.find()
        return found is not None and found.state in states

    def rests_in(self, *states: pb.DeploymentState.ValueType) -> bool:
        """Whether it is, nothing goes on, and the announcement is as it should be."""
        found = self.find()
        if found is None or found.reconciling or found.state not in states:
            return False
        return (self.name in self.announced()) == (found.state in _ACTIVE)

    def is_told(self) -> bool:
        """Whether the orchestrator answers, and can hear the engine that holds it."""
        listed = self.listed()
        return listed is not None and not any(
            item.deployment_id == self.name and item.state == pb.DEPLOYMENT_STATE_UNKNOWN for item in listed
        )

    def manifest(self) -> str:
        """What its record wishes for."""
        content: str = self.call("ExportDeployment", pb.ExportDeploymentRequest(name=self.name)).manifest.content
        return content

    def is_gone(self) -> bool:
        """Whether the node says that there is no such deployment."""
        listed = self.listed()
        return listed is not None and self.name not in {item.deployment_id for item in listed}

    def listed(self) -> list[pb.Deployment] | None:
        """All deployments; None when nobody can say."""
        try:
            return list(self.call("ListDeployments", pb.ListDeploymentsRequest()).deployments)
        except grpc.RpcError:
            return None

    def events(self) -> list[str]:
        """The reasons in its history, oldest first."""
        request = pb.ListDeploymentEventsRequest(name=self.name, page_size=1000)
        return [event.reason for event in self.call("ListDeploymentEvents", request).events]

    def announced(self) -> set[str]:
        """What the node announces; nothing when nobody can say."""
        with Client(self.node.socket) as client:
            try:
                answer = client.call(client.provider.ListProviders, provider_pb.ListProvidersRequest())
            except grpc.RpcError:
                return set()
        return {item.manifest_id for item in answer.providers}

    def orphans(self) -> list[str]:
        """What no deployment claims."""
        return [item.workload_id for item in self.call("ListOrphans", pb.ListOrphansRequest()).workloads]

    # What podman has

    def pods(self) -> list[str]:
        """Its pods' names."""
        return [item["Name"] for item in podman_state.listed("pod", "ps", "--filter", self._label)]

    def containers(self) -> dict[str, Container]:
        """Its containers by id."""
        ids = podman_state.podman("ps", "--all", "--no-trunc", "--quiet", "--filter", self._label).split()
        inspected = json.loads(podman_state.podman("inspect", "--type", "container", *ids)) if ids else []
        return {
            item["Id"]: Container(
                name=item["Name"],
                running=item["State"]["Running"],
                pid=item["State"]["Pid"],
                conmon=item["State"].get("ConmonPid", 0),
                start_time=item["State"]["StartedAt"],
                restarts=item["RestartCount"],
            )
            for item in inspected
        }

    def running(self) -> dict[str, Container]:
        """Those that run."""
        return {key: item for key, item in self.containers().items() if item.running}

    @property
    def _label(self) -> str:
        return f"label=beemesh.io/workload-id={self.workload_id}"

    @property
    def workload_id(self) -> str:
        """What its objects are labelled with; the same over all its life."""
        return identity.workload_id(node=self.node.node_id(), deployment=self.name)

    # What happens to the node

    def end(self, *services: str) -> None:
        """Kill services of the node by -9, and wait until other processes have taken their places."""
        before = self.node.services()
        for service in services:
            send(before[service], signal.SIGKILL)
        self.until(
            lambda: all(self.node.services().get(service, before[service]) != before[service] for service in services),
            f"{services} are not started again",
        )

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until it holds."""
        end = time.monotonic() + SOON
        while not holds():
            assert time.monotonic() < end, f"{what}: {self.find()}\n{self.containers()}\n{self.node.log_tail()}"
            time.sleep(_LOOK_SECONDS)
