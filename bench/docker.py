"""A Compose file on docker, beside `docker compose up -d`; and one Pod on docker, beside the same on podman."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from bench.measure import interleaved, ratios, table, timed
from bench.nodes import IMAGE, node
from bench.podman import POD
from bench.report import Effort, Report, verdict
from scripts.client import Client
from scripts.make_test_image import import_image
from tests.harness.docker import DockerMachine, compose_binary

COMPOSE = f"""\
name: NAME
services:
  web:
    image: {IMAGE}
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 1 & wait $$!; done"]
    depends_on: [db]
    environment: {{GREETING: hello}}
  db:
    image: {IMAGE}
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 1 & wait $$!; done"]
    volumes: ["data:/data"]
volumes: {{data: }}
"""
APPLY_GOAL = 1.2
OVERHEAD_GOAL = 1.0

_UP, _APPLY = "`docker compose up -d`", "apply to ACTIVE"
_DOWN, _DELETE = "`docker compose down -v`", "delete until gone"
_ON_PODMAN, _ON_DOCKER = "the Pod on podman", "the Pod on docker"


class Ours:
    """Apply until ACTIVE and delete until gone, over the socket."""

    def __init__(self, client: Client, manifest: str, *, engine: str) -> None:
        self._client = client
        self._manifest = manifest
        self._engine = engine
        self._number = 0
        self.removals: list[float] = []

    def apply(self) -> float:
        """Seconds of one apply; its removal is timed beside it."""
        self._number += 1
        name = f"bench-{self._engine}-{self._number}"
        request = pb.ApplyManifestRequest(
            deployment_id=name,
            manifest=Manifest(content=self._manifest.replace("NAME", name)),
            engine_id=self._engine,
            wait=Duration(seconds=60),
        )
        took = timed(lambda: self._active(request))
        gone = pb.DeleteDeploymentRequest(name=name, remove_volumes=True)
        self.removals.append(
            timed(lambda: self._client.call(self._client.orchestrator.DeleteDeployment, gone, seconds=90))
        )
        return took

    def _active(self, request: pb.ApplyManifestRequest) -> None:
        answer = self._client.call(self._client.orchestrator.ApplyManifest, request, seconds=90)
        if answer.deployment.state != pb.DEPLOYMENT_STATE_ACTIVE:
            raise RuntimeError(f"{request.deployment_id} is {pb.DeploymentState.Name(answer.deployment.state)}")


class Compose:
    """`docker compose up -d` and `down`, by the same Compose that the engine uses."""

    def __init__(self, docker: DockerMachine, directory: Path) -> None:
        self._environment = {**os.environ, "DOCKER_HOST": f"unix://{docker.socket}"}
        self._path = directory / "compose.yaml"
        self._number = 0
        self.removals: list[float] = []

    def up(self) -> float:
        """Seconds of one `up`; its `down` is timed beside it."""
        self._number += 1
        self._path.write_text(COMPOSE.replace("NAME", f"peer-{self._number}"))
        took = timed(lambda: self._compose("up", "--detach"))
        self.removals.append(timed(lambda: self._compose("down", "--volumes")))
        return took

    def _compose(self, *arguments: str) -> None:
        subprocess.run(
            [str(compose_binary()), "--file", str(self._path), *arguments],
            check=True,
            capture_output=True,
            env=self._environment,
            timeout=120,
        )


def run(effort: Effort) -> Report:
    """A daemon of its own; each pair takes turns, each with its removal."""
    rounds = effort.of(9, 1)
    import_image(IMAGE)
    with DockerMachine() as docker, tempfile.TemporaryDirectory() as directory:
        docker.make_image(IMAGE)
        settings = {"BEEMESH_DOCKER_SOCKET": str(docker.socket)}
        with node("docker", env=settings) as local, Client(local.socket) as client:
            ours, peer = Ours(client, COMPOSE, engine="docker"), Compose(docker, Path(directory))
            projects = interleaved({_UP: peer.up, _APPLY: ours.apply}, rounds=rounds)
            gone = {_DOWN: peer.removals[1:], _DELETE: ours.removals[1:]}
        with node("docker,podman", env=settings) as local, Client(local.socket) as client:
            here, there = Ours(client, POD, engine="podman"), Ours(client, POD, engine="docker")
            pods = interleaved({_ON_PODMAN: here.apply, _ON_DOCKER: there.apply}, rounds=rounds)
            ended = {_ON_PODMAN: here.removals[1:], _ON_DOCKER: there.removals[1:]}
    ratio = statistics.median(ratios(projects, _APPLY, against=_UP))
    overhead = statistics.median(gone[_DELETE])
    body = f"""\
Two services and a volume, by the same Compose:

{table(projects, against=_UP)}

Goal: apply ≤ {APPLY_GOAL} of up, by round: {verdict(ratio <= APPLY_GOAL)}.

{table(gone, against=_DOWN)}

The containers end at once on TERM, so all of a removal is overhead; goal ≤ {OVERHEAD_GOAL:.0f} s:
{verdict(overhead <= OVERHEAD_GOAL)}.

One Pod of one container, applied until it is ACTIVE, and deleted until it is gone:

{table(pods, against=_ON_PODMAN)}

{table(ended, against=_ON_PODMAN)}

{rounds} rounds, in turns."""
    return Report(body=body)
