"""A node on a docker and a podman that belong to the test: both can be stopped under it, and started again.

The docker engine reaches its daemon through a proxy that can cut answers. Podman's service is ours and not the
engine's, which would start one of its own again at once.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from scripts.client import Client
from scripts.local_node import LocalNode
from services.engines.pods.labels import LABEL_ROLE, ROLE_INFRA
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from tests.harness.cutting_proxy import CuttingProxy
from tests.harness.docker import IMAGE as IMAGE
from tests.harness.docker import DockerMachine, skip_without_docker
from tests.harness.podman import PodmanMachine, skip_without_podman

WAITS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
"""A script that runs until TERM."""
IMAGES = ("nginx:latest", "node:16", "test:latest")
"""Names that everybody knows, here of busybox; each runs until TERM."""
SOON = 60.0
"""Seconds within which what must happen happens, on a busy machine."""

STOPPED = "UNHEALTHY:SOCKET_UNREACHABLE"
"""Why an engine cannot be used whose backend was stopped."""

_START_SECONDS = 20.0
_LOOK_SECONDS = 0.1
_NO_REGISTRY = '[[registry]]\nprefix = "docker.io"\nlocation = "localhost:1"\ninsecure = true\n'


class Backends:
    """A docker and a podman; `with` makes and removes them with all that is in them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._podman_service: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with skip_without_podman():
                self.podman = stack.enter_context(PodmanMachine())
            with skip_without_docker():
                self.docker = stack.enter_context(DockerMachine())
            self.proxy = stack.enter_context(
                CuttingProxy(socket=self.docker.directory / "proxy.sock", backend=self.docker.socket)
            )
            registries = self.podman.directory / "registries.conf"
            registries.write_text(_NO_REGISTRY)
            self.podman.env["CONTAINERS_REGISTRIES_CONF"] = str(registries)
            self._make_images()
            stack.callback(self.stop_podman)
            self.start_podman()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _make_images(self) -> None:
        changes = [f'CMD ["sh", "-c", "{WAITS}"]']
        for name in IMAGES:
            self.docker.make_image(name, changes=changes)
            self.podman.make_image(f"docker.io/library/{name}", changes=changes)

    @property
    def podman_socket(self) -> Path:
        """Where podman's service listens while it runs."""
        return self.podman.directory / "service.sock"

    @property
    def files(self) -> Path:
        """The directory below which Compose files may name files."""
        found = self.docker.directory / "files"
        found.mkdir(exist_ok=True)
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What a node on them is started with: no backend flaps here, however often the tests stop it."""
        podman = {name: value for name, value in self.podman.env.items() if name.startswith("CONTAINERS_")}
        return podman | {
            "BEEMESH_DOCKER_SOCKET": str(self.proxy.socket),
            "BEEMESH_PODMAN_SOCKET": str(self.podman_socket),
            "BEEMESH_COMPOSE_FILES": str(self.files),
            "BEEMESH_FLAP_TRANSITIONS": "1000",
            "BEEMESH_PROBE_INTERVAL": "1",
            "BEEMESH_POLL_INTERVAL": "1",
        }

    # Stopped, and started again

    def start_podman(self) -> None:
        """Start podman's service; returns when it listens."""
        empty = self.podman.directory / "empty"
        empty.mkdir(exist_ok=True)
        self.podman_socket.unlink(missing_ok=True)
        with (self.podman.directory / "service.log").open("ab") as log:
            self._podman_service = subprocess.Popen(
                ["podman", "system", "service", "--time=0", f"unix://{self.podman_socket}"],
                cwd=empty,
                env=self.podman.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + _START_SECONDS
        while not self.podman_socket.exists():
            assert self._podman_service.poll() is None, "podman's service does not start"
            assert time.monotonic() < end, "podman's service does not listen"
            time.sleep(0.02)

    def stop_podman(self) -> None:
        """End podman's service by -9, and its socket with it; containers run on."""
        if self._podman_service is not None:
            self._podman_service.kill()
            self._podman_service.wait(_START_SECONDS)
            self._podman_service = None
            self.podman_socket.unlink(missing_ok=True)

    def start(self, name: str) -> None:
        """Start a backend that was stopped."""
        if name == "podman":
            self.start_podman()
        else:
            self.docker.start()
            self.proxy.forward()

    def stop(self, name: str) -> None:
        """Stop a backend; its containers run on."""
        if name == "podman":
            self.stop_podman()
        else:
            self.proxy.refuse()
            self.docker.stop()

    def kill(self, name: str) -> None:
        """The same by -9, in the middle of whatever it does."""
        if name == "podman":
            self.stop_podman()
        else:
            self.docker.kill()
            self.proxy.refuse()

    def up(self) -> None:
        """Both are there, and nothing is cut."""
        if not self.docker.runs:
            self.docker.start()
        if self._podman_service is None:
            self.start_podman()
        self.proxy.forward()

    # What is in them

    def running(self, workload_id: str) -> dict[str, list[str]]:
        """By engine, the names of a workload's containers that run, those of no manifest left out.

        Both backends are asked, but for a docker that is stopped: what was running there runs on.
        """
        label = f"{LABEL_WORKLOAD_ID}={workload_id}"
        found: dict[str, list[str]] = {}
        if self.docker.runs:
            found["docker"] = [c["Name"].lstrip("/") for c in self._docker_containers(label)]
        ps = self.podman.listed("ps", "--filter", f"label={label}")
        found["podman"] = [c["Names"][0] for c in ps if not c.get("IsInfra")]
        return {engine: sorted(names) for engine, names in found.items() if names}

    def ids(self, workload_id: str) -> set[str]:
        """The containers of a workload that run, those of no manifest left out; docker's while it runs."""
        label = f"{LABEL_WORKLOAD_ID}={workload_id}"
        docker = self._docker_containers(label) if self.docker.runs else []
        podman = self.podman.listed("ps", "--filter", f"label={label}")
        return {c["Id"] for c in docker} | {c["Id"] for c in podman if not c.get("IsInfra")}

    def _docker_containers(self, label: str) -> list[dict[str, Any]]:
        """Those that run, but for the ones that hold a Pod's network."""
        found = [c for c in self.docker.containers(label) if c["State"]["Running"]]
        return [c for c in found if c["Config"]["Labels"].get(LABEL_ROLE) != ROLE_INFRA]

    def kept(self, workload_id: str, file: str) -> list[str]:
        """The words in this file, in whichever volumes of a workload have it; both backends must be there."""
        with self.docker.sdk() as sdk:
            volumes = sdk.volumes(filters={"label": f"{LABEL_WORKLOAD_ID}={workload_id}"})["Volumes"] or []
        volumes += self.podman.listed("volume", "ls", "--filter", f"label={LABEL_WORKLOAD_ID}={workload_id}")
        paths = [Path(volume["Mountpoint"]) / file for volume in volumes]
        return [word for path in paths if path.exists() for word in path.read_text().split()]

    def remove_volumes(self, workload_id: str) -> None:
        """Remove what a deletion has kept of a workload."""
        with self.docker.sdk() as sdk:
            for volume in sdk.volumes(filters={"label": f"{LABEL_WORKLOAD_ID}={workload_id}"})["Volumes"] or []:
                sdk.remove_volume(volume["Name"])
        for volume in self.podman.listed("volume", "ls", "--filter", f"label={LABEL_WORKLOAD_ID}={workload_id}"):
            self.podman.podman("volume", "rm", volume["Name"])

    def copies(self, workload_id: str, since: float) -> dict[str, list[Span]]:
        """By engine, when a workload's containers ran, from the backends' own events since then.

        What has no start there, as a docker that was killed forgets, is taken to have run all the time.
        """
        told = {"docker": self._docker_events(since), "podman": self._podman_events(since)}
        running = self.running(workload_id)
        found = {
            engine: _spans((event for event in events if workload_id in event[1]), running.get(engine, ()), since)
            for engine, events in told.items()
        }
        return {engine: spans for engine, spans in found.items() if spans}

    def _docker_events(self, since: float) -> list[tuple[float, str, str]]:
        with self.docker.sdk() as sdk:
            events = sdk.events(
                since=int(since), until=int(time.time()) + 1, decode=True, filters={"type": "container"}
            )
            return [(e["timeNano"] / 1e9, e["Actor"]["Attributes"]["name"], e["Action"]) for e in events]

    def _podman_events(self, since: float) -> list[tuple[float, str, str]]:
        told = self.podman.podman("events", "--stream=false", "--since", str(int(since)), "--format", "json")
        events = [json.loads(line) for line in told.splitlines()]
        return [
            (datetime.fromisoformat(_microseconds(e["Time"])).timestamp(), e["Name"], e["Status"])
            for e in events
            if e["Type"] == "container"
        ]

    def left(self, node_id: str) -> set[str]:
        """All that both have of a node, and whatever else is in them beside images and what they come with."""
        docker = {f"docker's {item}" for item in self.docker.objects() - _OF_DOCKER}
        podman = {f"podman's {item}" for item in self.podman.objects() if not item.startswith("network ")}
        networks = self.podman.listed("network", "ls", "--filter", f"label={LABEL_NODE_ID}={node_id}")
        return docker | podman | {f"podman's network {item['name']}" for item in networks}

    def clear(self, node_id: str) -> None:
        """Remove all that is in them, for who leaves after a failure."""
        self.up()
        self.docker.remove_all()
        podman = self.podman
        for kind in ("pod", "container", "volume"):
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                stopped = () if kind == "volume" else ("--time", "0")
                podman.podman(kind, "rm", "--all", "--force", *stopped)
        for item in podman.listed("network", "ls", "--filter", f"label={LABEL_NODE_ID}={node_id}"):
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                podman.podman("network", "rm", "--force", item["name"])


Span = tuple[float, float]
"""From when to when a container ran; without an end while it runs."""


def _spans(events: Iterable[tuple[float, str, str]], running: Iterable[str], since: float) -> list[Span]:
    """When each container ran, by the events of its start and its end, and by what runs now."""
    began: dict[str, float] = {}
    found: list[Span] = []
    for moment, name, what in sorted(events):
        if what == "start":
            began[name] = moment
        elif what in ("die", "died"):
            found.append((began.pop(name, since), moment))
    return sorted(found + [(began.get(name, since), math.inf) for name in running])


def at_once(copies: Mapping[str, Sequence[Span]]) -> list[tuple[Span, Span]]:
    """Containers that ran on two engines at the same moment."""
    return [
        (one, other)
        for first, second in itertools.combinations(copies.values(), 2)
        for one in first
        for other in second
        if one[0] < other[1] and other[0] < one[1]
    ]


def _microseconds(time_text: str) -> str:
    """A time as Python reads it: podman writes nanoseconds, and no trailing zeros."""
    return re.sub(r"\.(\d{1,6})\d*", lambda found: f".{found[1]:0<6}", time_text)


_OF_DOCKER = {"network host", "network none", "network bridge"}


@dataclass(frozen=True, slots=True)
class MixedNode:
    """A node on both, and its client on the node's socket."""

    node: LocalNode
    backends: Backends
    client: Client

    def apply(self, manifest: str, *, wait: float = SOON, **more: Any) -> pb.ApplyManifestResponse:
        """Apply, and wait until it is done or waits itself. Raises grpc.RpcError."""
        request = pb.ApplyManifestRequest(
            manifest=Manifest(content=manifest), wait=Duration(nanos=int(wait * 1e9) % 10**9, seconds=int(wait)), **more
        )
        answer: pb.ApplyManifestResponse = self.client.call(
            self.client.orchestrator.ApplyManifest, request, seconds=wait + 30
        )
        return answer

    def find(self, name: str) -> pb.Deployment | None:
        """The deployment as it is; None when there is none. Raises grpc.RpcError when nobody can say."""
        try:
            answer = self.client.call(self.client.orchestrator.GetDeployment, pb.GetDeploymentRequest(name=name))
        except grpc.RpcError as error:
            found: Any = error  # the error of a synchronous call is the call, too
            if found.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        deployment: pb.Deployment = answer.deployment
        return deployment

    def delete(self, name: str, *, wait: float = SOON, **more: Any) -> None:
        """Delete with all volumes and wait until it is gone; that it is not there is no error."""
        request = pb.DeleteDeploymentRequest(
            name=name, allow_missing=True, remove_volumes=True, wait=Duration(seconds=int(wait)), **more
        )
        self.client.call(self.client.orchestrator.DeleteDeployment, request, seconds=wait + 30)

    def available(self) -> dict[str, bool]:
        """Which engines can be used, as the registry has it now."""
        request = registry_pb.CheckAvailableEnginesRequest()
        return dict(self.client.call(self.client.registry.CheckAvailableEngines, request).available)

    def until_available(self, **wanted: bool) -> None:
        """Wait until the registry says so of these engines."""
        self.until(lambda: wanted.items() <= self.available().items(), f"availability of {wanted}")

    def until_stopped(self, *engines: str) -> None:
        """Wait until the registry says of these that nobody is at their backends' sockets."""

        def stopped() -> bool:
            answer = self.client.call(self.client.registry.ListEngines, registry_pb.ListEnginesRequest())
            told = {engine.engine_id: engine.availability_reason for engine in answer.engines}
            return all(told[engine] == STOPPED for engine in engines)

        self.until(stopped, f"{engines} are stopped")

    def until(self, holds: Callable[[], bool], what: str, *, seconds: float = SOON) -> None:
        """Wait until it holds; a call that fails meanwhile is made again. Raises AssertionError."""
        end, last = time.monotonic() + seconds, ""
        while True:
            try:
                if holds():
                    return
            except grpc.RpcError as error:
                last = f"\n{error}"
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}{last}\n{self.node.log_tail()}"
            time.sleep(_LOOK_SECONDS)

    def until_active(self, name: str, *engines: str) -> pb.Deployment:
        """Wait until it runs on one of these and nothing goes on; the deployment."""
        found: list[pb.Deployment] = []

        def active() -> bool:
            now = self.find(name)
            found[:] = [now] if now is not None else []
            return (
                now is not None
                and now.state == pb.DEPLOYMENT_STATE_ACTIVE
                and not now.reconciling
                and now.instances[0].engine_id in engines
            )

        try:
            self.until(active, f"{name} is ACTIVE on {' or '.join(engines)}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{found}") from None
        return found[0]

    def clear(self) -> None:
        """Delete every deployment; what is left then is removed and named. Raises AssertionError."""
        self.backends.up()
        listed = self.client.call(self.client.orchestrator.ListDeployments, pb.ListDeploymentsRequest())
        for deployment in listed.deployments:
            self.delete(deployment.deployment_id)
        node_id = self.node.node_id()
        left: set[str] = set()
        end = time.monotonic() + 10.0  # a canary may be at work
        while (left := self.backends.left(node_id)) and time.monotonic() < end:
            time.sleep(0.2)
        self.backends.clear(node_id)
        assert left == set(), f"left behind: {sorted(left)}"


@contextmanager
def mixed_node(
    backends: Backends, *, engines: str = "podman,docker,mock", env: Mapping[str, str] | None = None
) -> Iterator[MixedNode]:
    """A node on these, once both can be used; what is left behind afterwards is removed, whatever happens."""
    local = LocalNode(engines=engines, env=backends.environment | dict(env or {}))
    try:
        with local, Client(local.socket) as client:
            mixed = MixedNode(local, backends, client)
            mixed.until_available(**dict.fromkeys(set(engines.split(",")), True))
            yield mixed
    finally:
        backends.clear(local.node_id())
