"""The node that `make cluster-up` started, as a caller on this machine and its docker see it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.make_test_image import REFERENCE, busybox_tar

CALL_PROGRAM = Path(__file__).parents[1] / "clients/node/call.mjs"
CALL_SECONDS = 60
BUILD_SECONDS = 600
"""The first function of a cluster waits for the Python runtime to be built."""
_CHANGES = ("ENV PATH=/bin", 'CMD ["sh"]')


class CallFailed(Exception):
    """A call ended with an error; `code` is the status, e.g. `NOT_FOUND`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Cluster:
    """The cluster whose files `make cluster-up` left in `directory`; it set this process's environment too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{os.environ['BEEMESH_PORT']}"
        self.node_id = os.environ["BEEMESH_NODE_ID"]
        self.project = os.environ["BEEMESH_PROJECT"]
        self.token_file = directory / "token"

    # As a caller

    def call(
        self, area: str, method: str, request: Mapping[str, Any] | None = None, *, seconds: float = CALL_SECONDS
    ) -> Sequence[dict[str, Any]]:
        """The answers of a call by the client in Node.js; raises CallFailed."""
        done = subprocess.run(
            ["node", CALL_PROGRAM, self.address, self.token_file, area, method, str(seconds)],
            input=json.dumps(request or {}),
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            check=False,
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode != 0:
            assert answers, done.stderr
            raise CallFailed(answers[-1]["error"], answers[-1]["message"])
        return answers

    def ask(self, method: str, request: Mapping[str, Any] | None = None, *, seconds: float = CALL_SECONDS) -> Any:
        """The one answer of the orchestrator."""
        (answer,) = self.call("orchestrator", method, request, seconds=seconds)
        return answer

    def reflect(self, *arguments: str) -> str:
        """What grpcurl prints, which knows of the services only what they tell it by reflection."""
        grpcurl = shutil.which("grpcurl") or str(Path.home() / "go/bin/grpcurl")
        token = f"authorization: Bearer {self.token_file.read_text().strip()}"
        command = [grpcurl, "-plaintext", "-max-time", str(CALL_SECONDS), "-H", token]
        options = [each for each in arguments if each.startswith("{")]
        data = ["-d", options[0]] if options else []
        rest = [each for each in arguments if not each.startswith("{")]
        done = subprocess.run(
            [*command, *data, self.address, *rest],
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS + 30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, manifest: str, *, seconds: float = CALL_SECONDS) -> Any:
        """The deployment, which is ACTIVE."""
        answer = self.ask("ApplyManifest", {"manifest": {"content": manifest}}, seconds=seconds)
        assert answer["deployment"]["state"] == "DEPLOYMENT_STATE_ACTIVE", answer["deployment"]
        return answer

    def deployments(self) -> Mapping[str, Any]:
        """All there are, by id."""
        listed = self.ask("ListDeployments").get("deployments", [])
        return {each["deployment_id"]: each for each in listed}

    def log(self, name: str) -> Sequence[str]:
        """The lines of a deployment."""
        answers = self.call("orchestrator", "StreamDeploymentLogs", {"name": name})
        return [entry["text"] for answer in answers for entry in answer.get("entries", [])]

    def delete_all(self) -> None:
        """Delete every deployment, with its volumes."""
        for name in self.deployments():
            self.ask("DeleteDeployment", {"name": name, "remove_volumes": True})

    # As its docker

    def docker(self, *arguments: str, data: bytes | None = None) -> str:
        """What docker's client prints."""
        done = subprocess.run(["docker", *arguments], input=data, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode()

    def make_image(self) -> None:
        """Import the busybox image that the workloads use."""
        busybox = shutil.which("busybox")
        assert busybox is not None, "busybox is not installed: apt-get install busybox-static"
        changes = [option for change in _CHANGES for option in ("--change", change)]
        self.docker("import", *changes, "-", REFERENCE, data=busybox_tar(Path(busybox)))

    def remove_image(self) -> None:
        """Remove it again."""
        self.docker("image", "rm", REFERENCE)

    def workload_containers(self) -> set[str]:
        """The ids of the containers that the node's workloads have."""
        return set(
            self.docker("ps", "-aq", "--no-trunc", "--filter", f"label=beemesh.io/node-id={self.node_id}").split()
        )

    def container(self, service: str) -> Mapping[str, Any]:
        """The container of one of the node's services."""
        filters = [f"label=com.docker.compose.project={self.project}", f"label=com.docker.compose.service={service}"]
        listed = self.docker("ps", "-aq", *(option for each in filters for option in ("--filter", each))).split()
        assert len(listed) == 1, f"{service}: {listed}"
        (found,) = json.loads(self.docker("inspect", *listed))
        return dict(found)

    def kill(self, service: str) -> None:
        """End a service by -9, as if it had crashed; `docker kill` would count as a stop that was asked for."""
        pid = self.container(service)["State"]["Pid"]
        code = f"import os; os.kill({pid}, 9)"
        rights = ("--pid", "host", "--user", "0", "--network", "none", "--cap-drop", "ALL", "--cap-add", "KILL")
        self.docker("run", "--rm", *rights, "--entrypoint", "python", "beemesh:local", "-c", code)

    def is_healthy(self, service: str) -> bool:
        """Whether the container's health check says so."""
        state = self.container(service)["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")


def until(holds: Callable[[], bool], what: str, *, seconds: float = 120.0) -> None:
    """Wait for it; calls that fail meanwhile are repeated."""
    end = time.monotonic() + seconds
    last: Exception | None = None
    while True:
        try:
            if holds():
                return
        except CallFailed as error:
            last = error
        assert time.monotonic() < end, f"not {what} within {seconds:g} s; last: {last}"
        time.sleep(0.5)
