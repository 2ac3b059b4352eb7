"""beectl against a node, as an operator has it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from beemesh.registry.v1 import registry_service_pb2 as registry_pb2
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode

PROGRAM = (sys.executable, "-m", "services.cli")
SECONDS = 100


class Beectl:
    """Runs beectl on one node, over its socket."""

    def __init__(self, node: LocalNode) -> None:
        self._env = {**os.environ, "BEEMESH_RUN_DIR": str(node.run_dir)}

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=REPOSITORY,
            env=self._env,
        )

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """What it printed; it succeeded."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, f"beectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def clear(self) -> None:
        """Delete every deployment with its volumes, at once."""
        for name in self.ok("get", "-o", "name").split():
            self.ok("delete", name, "--force", "--volumes")

    def components(self, name: str) -> list[dict[str, Any]]:
        """The deployment's components, as `get -o json` has them."""
        item = json.loads(self.ok("get", name, "-o", "json"))
        found: list[dict[str, Any]] = item["instances"][0]["workload"]["components"]
        return found

    def told(self, name: str) -> dict[str, str]:
        """What `describe` says of each component, by the name it has there."""
        lines = iter(self.ok("describe", name).splitlines())
        for line in lines:
            if line.split()[:1] == ["COMPONENT"]:
                break
        rows = (line.split(maxsplit=1) for line in itertools.takewhile(lambda line: line.startswith("  "), lines))
        return {words[0]: words[1] for words in rows}


@contextmanager
def podman_node() -> Iterator[LocalNode]:
    """A node whose podman engine can be used; what it leaves in podman is removed when it has stopped."""
    with ExitStack() as stack:
        ids: list[str] = []
        stack.callback(lambda: [podman_state.purge(node_id) for node_id in ids])
        node = stack.enter_context(LocalNode(engines="podman"))
        ids.append(node.node_id())
        with Client(node.public, token=node.token) as client:
            wait_for_podman(client)
        yield node


def wait_for_podman(client: Client) -> None:
    """Wait until the node's podman engine can be used."""
    request = registry_pb2.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=10))
    for _ in range(30):
        if client.call(client.registry.CheckAvailableEngines, request).available.get("podman"):
            return
    pytest.fail("podman does not become available")


def objects(node: LocalNode) -> set[str]:
    """All that podman has of this node, by its label."""
    return {str(item) for item in podman_state.snapshot() if item.node_id == node.node_id()}
