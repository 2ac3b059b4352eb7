"""A Pod on podman: our apply and removal beside podman's own commands.

Run by `make bench`: starts a node of its own, needs podman and nothing else on the machine to be busy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from bench.measure import interleaved, table, timed
from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode
from scripts.make_test_image import REFERENCE, import_image

POD = f"""\
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: {REFERENCE}
    imagePullPolicy: Never
    command: ["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done"]
"""
ENVIRONMENT = {**os.environ, "CONTAINERS_CONF": str(REPOSITORY / "deploy/containers.conf")}


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


@contextmanager
def node() -> Iterator[Client]:
    """A node whose podman engine can be used."""
    with LocalNode(engines="podman") as started, Client(started.socket) as client:
        request = registry_pb.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=10))
        while not client.call(client.registry.CheckAvailableEngines, request).available.get("podman"):
            time.sleep(0.1)
        yield client


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    import_image()
    with node() as client, tempfile.TemporaryDirectory() as directory:
        ours, peer = Ours(client), Podman(Path(directory))
        found = interleaved({"podman kube play": peer.play, "beemesh apply to ACTIVE": ours.apply}, rounds=rounds)
        print("### A Pod: apply\n")
        print(table(found, against="podman kube play"))
        print("\n### The same Pod: removal (it ends at once on TERM: all of this is overhead)\n")
        removals = {"podman kube down": peer.removals[1:], "beemesh delete until gone": ours.removals[1:]}
        print(table(removals, against="podman kube down"))


if __name__ == "__main__":
    main()
