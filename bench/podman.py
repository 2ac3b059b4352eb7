"""A Pod on podman: our apply and removal beside podman's own commands."""

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
from bench.report import Effort, Report, verdict
from scripts.client import Client
from scripts.local_node import REPOSITORY
from scripts.make_test_image import import_image

POD = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: Never
    command: ["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done"]
"""
APPLY_GOAL = 1.0
OVERHEAD_GOAL = 1.0
ENVIRONMENT = {**os.environ, "CONTAINERS_CONF": str(REPOSITORY / "deploy/containers.conf")}

_PLAY, _APPLY = "`podman kube play`", "apply to ACTIVE"


class Ours:
    """Apply until ACTIVE and delete until gone, over the socket."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._number = 0
        self.removals: list[float] = []

    def apply(self) -> float:
        """Seconds of one apply; its removal is timed beside it."""
        self._number += 1
        name = f"bench-{self._number}"
        request = pb.ApplyManifestRequest(
            deployment_id=name, manifest=Manifest(content=POD.replace("NAME", name)), wait=Duration(seconds=60)
        )
        took = timed(lambda: self._client.call(self._client.orchestrator.ApplyManifest, request, seconds=90))
        gone = pb.DeleteDeploymentRequest(name=name)
        self.removals.append(
            timed(lambda: self._client.call(self._client.orchestrator.DeleteDeployment, gone, seconds=90))
        )
        return took


class Podman:
    """`podman kube play` and `podman kube down`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self.removals: list[float] = []

    def play(self) -> float:
        """Seconds of one play; its `down` is timed beside it."""
        self._number += 1
        path = self._directory / "pod.yaml"
        path.write_text(POD.replace("NAME", f"peer-{self._number}"))
        took = timed(lambda: _podman("kube", "play", "--network", "podman", str(path)))
        self.removals.append(timed(lambda: _podman("kube", "down", str(path))))
        return took


def _podman(*arguments: str) -> None:
    subprocess.run(["podman", *arguments], check=True, capture_output=True, env=ENVIRONMENT, timeout=120)


def run(effort: Effort) -> Report:
    """Play and apply in turns, each with its removal."""
    rounds = effort.of(9, 1)
    import_image(IMAGE)
    with (
        node("podman") as local,
        Client(local.socket) as client,
        tempfile.TemporaryDirectory() as directory,
    ):
        ours, peer = Ours(client), Podman(Path(directory))
        found = interleaved({_PLAY: peer.play, _APPLY: ours.apply}, rounds=rounds)
    removals = {"`podman kube down`": peer.removals[1:], "delete until gone": ours.removals[1:]}
    ratio = statistics.median(ratios(found, _APPLY, against=_PLAY))
    overhead = statistics.median(removals["delete until gone"])
    body = f"""\
{table(found, against=_PLAY)}

Goal: apply ≤ {APPLY_GOAL} of play, by round: {verdict(ratio <= APPLY_GOAL)}.

{table(removals, against="`podman kube down`")}

The Pod ends at once on TERM, so all of its removal is overhead; goal ≤ {OVERHEAD_GOAL:.0f} s:
{verdict(overhead <= OVERHEAD_GOAL)}.
{rounds} rounds, in turns."""
    return Report(body=body)
