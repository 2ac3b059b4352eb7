"""Ten thousand lines, followed by one call over kill -9 of the engine and rotations of the log: no gap, no repeat."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.engine.v1.engine_service_pb2 import LogEntry
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import LocalNode, send
from tests.harness.beectl import wait_for_podman

pytestmark = [pytest.mark.podman, pytest.mark.timeout(120)]

HALF, LINES = 5000, 10_000
LOG_BYTES = 3 << 20
"""Three files of 1 MiB; half of the lines is 1.2 MiB, so each half is cut by a rotation."""
ENGINE = "services.engines.podman"
ID = "pod-default-counts"
POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: counts
spec:
  containers:
  - name: main
    image: {image}
    imagePullPolicy: Never
    command:
    - sh
    - -c
    - |
      count() {{
        while [ $1 -lt $2 ]; do
          echo {pad} $1; set -- $(($1+1)) $2; [ $(($1%100)) = 0 ] && sleep 0.01
        done
      }}
      count 0 {half}
      while [ ! -e /go ]; do sleep 0.05; done
      count {half} {lines}
      trap 'exit 0' TERM
      while :; do sleep 0.1; done
"""


@pytest.fixture
def node(podman_image: str) -> Iterator[LocalNode]:
    """A node whose containers may log little."""
    with LocalNode(engines="podman", env={"BEEMESH_CONTAINER_LOG_BYTES": str(LOG_BYTES)}) as started:
        node_id = started.node_id()
        yield started
    podman_state.purge(node_id)  # not before: a node makes anew what vanishes


class Follower:
    """One client with one call, in a thread of its own."""

    def __init__(self, client: Client) -> None:
        self.numbers: list[int] = []
        self.dropped = 0
        self.error = ""
        """Why the call ended before its time."""
        self._half = ""
        self._client = client
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        request = pb.StreamDeploymentLogsRequest(name=ID, follow=True)
        stream: Any = self._client.call(self._client.orchestrator.StreamDeploymentLogs, request, seconds=100)
        try:
            for message in stream:
                for entry in message.entries:
                    self._take(entry)
        except grpc.RpcError as error:
            self.error = str(error)

    def _take(self, entry: LogEntry) -> None:
        """The monitor reads 8 KiB at a time: a line that is cut there comes in two entries."""
        self.dropped += entry.dropped_lines
        self._half += entry.text
        if not entry.partial:
            self.numbers.append(int(self._half.split()[1]))
            self._half = ""

    def wait(self) -> None:
        """Until the stream has ended."""
        self._thread.join(90)
        assert not self._thread.is_alive(), f"{len(self.numbers)} lines have come"
        assert self.error == ""


def test_one_follower_outlives_its_engine_and_rotations(node: LocalNode, podman_image: str) -> None:
    """Followed by one call, 10,000 lines come once and in order though the engine is killed and the log rotates."""
    text = POD.format(image=podman_image, pad="x" * 200, half=HALF, lines=LINES)
    with Client(node.socket) as client:
        wait_for_podman(client)
        apply = pb.ApplyManifestRequest(manifest=Manifest(content=text), wait=Duration(seconds=60))
        answer: Any = client.call(client.orchestrator.ApplyManifest, apply, seconds=90)
        (component,) = answer.deployment.instances[0].workload.components
        log = log_of(component.component_id)
        follower = Follower(client)
        until(lambda: len(follower.numbers) == HALF or bool(follower.error), "half of the lines")
        assert follower.error == ""
        first, before = log.stat().st_ino, node.services()[ENGINE]
        send(node.pid, signal.SIGSTOP)  # nobody starts the engine again before the log has rotated
        try:
            send(before, signal.SIGKILL)
            subprocess.run(["podman", "exec", component.component_id, "sh", "-c", "> /go"], check=True, timeout=30)
            until(lambda: log.stat().st_ino != first, "a rotation")
        finally:
            send(node.pid, signal.SIGCONT)
        until(lambda: len(follower.numbers) == LINES or bool(follower.error), "all lines")
        assert node.services()[ENGINE] != before
        client.call(client.orchestrator.DeleteDeployment, pb.DeleteDeploymentRequest(name=ID), seconds=60)
        follower.wait()
    assert follower.numbers == list(range(LINES))
    assert follower.dropped == 0


def log_of(container: str) -> Path:
    """Where the container's monitor writes; what it has written so far is more than one file."""
    (found,) = podman_state.listed("container", "inspect", container)
    return Path(found["HostConfig"]["LogConfig"]["Path"])


def until(holds: Callable[[], bool], what: str, seconds: float = 45.0) -> None:
    """Wait for something that happens outside of this process."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
