"""beectl against a node, as an operator has it."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
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
SHELL_SECONDS = 20.0


class Shell:
    """A beectl in a terminal, and who sits at it."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self._process = process
        self._keyboard = keyboard

    def types(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._keyboard, keys.encode())

    def says(self, command: str, expected: str) -> None:
        """Type the command; its answer comes on a line of its own."""
        self.types(f"{command}\r")
        self.shows(f"\r\n{expected}\r\n")

    def shows(self, expected: str) -> None:
        """Wait until this is on the screen."""
        seen, end = "", time.monotonic() + SHELL_SECONDS
        while expected not in seen:
            assert time.monotonic() < end, f"no {expected!r} in {seen!r}"
            if select.select([self._keyboard], [], [], 0.5)[0]:
                seen += os.read(self._keyboard, 4096).decode(errors="replace")

    def resize(self, rows: int, columns: int) -> None:
        """Draw the window to another size."""
        termios.tcsetwinsize(self._keyboard, (rows, columns))
        self._process.send_signal(signal.SIGWINCH)  # it is no session leader: the kernel does not tell it
        time.sleep(0.5)  # what is typed next is read with the new size

    def ended(self) -> int:
        """Its exit code."""
        return self._process.wait(SHELL_SECONDS)

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait(SHELL_SECONDS)


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

    @contextmanager
    def shell(self, name: str, *, rows: int, columns: int) -> Iterator[Shell]:
        """`beectl exec -it NAME -- sh` in a terminal of this size, once it prompts."""
        keyboard, terminal = os.openpty()
        termios.tcsetwinsize(terminal, (rows, columns))
        command = [*PROGRAM, "exec", "-it", name, "--", "sh"]
        with subprocess.Popen(
            command, cwd=REPOSITORY, env=self._env, stdin=terminal, stdout=terminal, stderr=terminal
        ) as process:
            os.close(terminal)
            try:
                shell = Shell(process, keyboard)
                shell.shows("# ")
                yield shell
            finally:
                process.kill()
                os.close(keyboard)

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
