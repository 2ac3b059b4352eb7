"""The mock engine verification that the project's design begins with, over gRPC."""

from __future__ import annotations

from pathlib import Path

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb

from services.errors import NotFound
from services.identity import workload_id
from tests.harness.engines import NODE_A, mock_engine
from tests.harness.errors import refusal
from tests.harness.processes import short_directory

SECONDS = 10
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  name: test-pod
  annotations:
    beemesh.io/runtime-engine: "mock"
spec:
  containers:
  - name: test
    image: test:latest
"""


async def test_the_mock_keeps_what_it_was_given_and_lets_go_of_it() -> None:
    """Deploy, manifest to the byte, config equal, at most five log lines, status, remove, a second remove NOT_FOUND."""
    workload = workload_id(node=NODE_A, deployment="test-pod")
    config = wpb.DeploymentConfig(replicas=3, env={"A": "1"})
    with short_directory() as directory:
        async with mock_engine(Path(directory)) as client:
            engine = client.engine
            request = pb.DeployWorkloadRequest(workload_id=workload, manifest_id="test-pod", config=config)
            request.manifest.content = MANIFEST
            deployed = (await engine.DeployWorkload(request, timeout=SECONDS)).workload

            stored = await engine.GetWorkloadManifest(
                pb.GetWorkloadManifestRequest(workload_id=deployed.workload_id), timeout=SECONDS
            )
            assert stored.manifest.content.encode() == MANIFEST.encode()

            kept = await engine.GetWorkloadConfig(
                pb.GetWorkloadConfigRequest(workload_id=deployed.workload_id), timeout=SECONDS
            )
            assert kept.config == config

            lines: list[pb.LogEntry] = []
            wanted = pb.StreamWorkloadLogsRequest(
                workload_id=deployed.workload_id, tail_lines=5, component_id=deployed.components[0].component_id
            )
            async for message in engine.StreamWorkloadLogs(wanted, timeout=SECONDS):
                lines += message.entries
            assert 0 < len(lines) <= 5

            status = await engine.GetWorkload(pb.GetWorkloadRequest(workload_id=deployed.workload_id), timeout=SECONDS)
            assert status.workload.state == wpb.WORKLOAD_STATE_RUNNING
            assert len(status.workload.components) == 3

            remove = pb.RemoveWorkloadRequest(workload_id=deployed.workload_id)
            await engine.RemoveWorkload(remove, timeout=SECONDS)
            error = await refusal(engine.RemoveWorkload(remove, timeout=SECONDS))
            assert (type(error), error.reason) == (NotFound, "WORKLOAD_NOT_FOUND")
