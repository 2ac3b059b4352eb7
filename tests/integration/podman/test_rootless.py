"""The engine as a user that is not root, on that user's podman."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.rpc.client import connect
from tests.harness.podman import IMAGE, skip_without_podman
from tests.harness.processes import until_serving
from tests.harness.unprivileged import User, engine_command, lacking, throwaway_user

pytestmark = [pytest.mark.podman, pytest.mark.timeout(120)]

ID = "beemesh-rootless-12345678"
CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
{runtime}
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
POD = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: rootless}}
spec:
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: Never
    command: [sh, -c, "echo born; cat /c/word; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    readinessProbe: {{exec: {{command: ["true"]}}, periodSeconds: 1}}
    volumeMounts: [{{name: c, mountPath: /c}}, {{name: m, mountPath: /m}}]
  volumes:
  - {{name: c, configMap: {{name: words}}}}
  - {{name: m, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: words}}
data: {{word: "kept\\n"}}
"""


@pytest.fixture
def user() -> Iterator[User]:
    """Somebody without rights."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a user to test as")
    with skip_without_podman():
        if missing := lacking():
            raise OSError(f"rootless podman needs {', '.join(missing)}")
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        made = throwaway_user(CONF.format(runtime="" if unified else 'runtime = "runc"'))
        found = made.__enter__()
    try:
        yield found
    finally:
        made.__exit__(None, None, None)


@contextmanager
def engine(user: User) -> Iterator[str]:
    """That user's engine; its address."""
    listen = f"unix:{user.runtime}/engine.sock"
    settings = {
        "LISTEN": listen,
        "DATA_DIR": f"{user.runtime}/data",
        "RUN_DIR": f"{user.runtime}/run",
        "NODE_ID": secrets.token_hex(20),
        "REGISTRY": "",
        "PROVIDER": "",
    }
    env = {**user.env, **{f"BEEMESH_{name}": value for name, value in settings.items()}}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(engine_command(user), env=env, cwd=Path(__file__).parents[3]) as process:
        try:
            yield listen
        finally:
            process.terminate()
            process.wait(20)


async def test_rootless_runs_what_it_can_and_refuses_what_it_cannot(user: User) -> None:
    """A pod runs with its files, probe and logs and is removed; its limits are refused by field where none are kept."""
    with engine(user) as target:
        async with connect(target, files=[pb.DESCRIPTOR]) as channel:
            await until_serving(channel, seconds=30)
            stub = pb_grpc.EngineServiceStub(channel)
            answer = await stub.GetEngineHealth(pb.GetEngineHealthRequest(probe=True), timeout=40)
            health = answer.health
            assert (health.state, health.attributes["rootless"]) == (pb.ENGINE_HEALTH_STATE_HEALTHY, "true"), health
            await _run(stub)
            limited = POD.replace("    volumeMounts", "    resources: {limits: {memory: 64Mi}}\n    volumeMounts", 1)
            paths = await _refused(stub, limited)
            keeps_limits = "keep memory limits" not in health.attributes["cannot"]
            assert paths == ([] if keeps_limits else ["spec.containers[0].resources.limits.memory"])
            probed = POD.replace('exec: {command: ["true"]}', "tcpSocket: {port: 80}")
            assert await _refused(stub, probed) == ["spec.containers[0].readinessProbe.tcpSocket"]
            assert "only exec probes" in health.message


async def _run(stub: Any) -> None:
    """Deploy it, look at it from all sides, remove it."""
    deploy = pb.DeployWorkloadRequest(workload_id=ID, manifest_id="rootless", manifest=tpb.Manifest(content=POD))
    await stub.DeployWorkload(deploy, timeout=60)
    async with asyncio.timeout(30):
        while not await _ready(stub):
            await asyncio.sleep(0.1)
    lines = [
        entry.text
        async for message in stub.StreamWorkloadLogs(pb.StreamWorkloadLogsRequest(workload_id=ID), timeout=20)
        for entry in message.entries
    ]
    assert lines == ["born", "kept"]
    await stub.RemoveWorkload(pb.RemoveWorkloadRequest(workload_id=ID), timeout=40)
    with pytest.raises(grpc.RpcError):
        await stub.GetWorkload(pb.GetWorkloadRequest(workload_id=ID), timeout=20)


async def _ready(stub: Any) -> bool:
    workload = (await stub.GetWorkload(pb.GetWorkloadRequest(workload_id=ID), timeout=20)).workload
    ready: bool = workload.components[0].ready
    return ready and workload.state == wpb.WORKLOAD_STATE_RUNNING


async def _refused(stub: Any, text: str) -> list[str]:
    """The fields that a manifest is refused for."""
    request = pb.ValidateManifestRequest(manifest=tpb.Manifest(content=text))
    answer = await stub.ValidateManifest(request, timeout=20)
    return [issue.field_path for issue in answer.issues if issue.severity == tpb.ISSUE_SEVERITY_ERROR]
