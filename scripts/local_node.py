"""A node on this machine with directories of its own, for the demo and for tests: started, asked, stopped, gone."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).resolve().parent.parent
READY_SECONDS = 60.0
STOP_SECONDS = 60.0


class NodeFailed(Exception):
    """The node did not do what it was told; the text has the end of its log."""


class LocalNode:
    """`with LocalNode(...) as node:` starts `beemesh-node` on free ports and stops it; its directories go with it."""

    def __init__(self, *, engines: str, env: Mapping[str, str] | None = None) -> None:
        self._engines = engines
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("BEEMESH_")} | dict(
            env or {}
        )
        self.home = Path(tempfile.mkdtemp(prefix="beemesh-"))
        self.data_dir = self.home / "data"
        self.run_dir = self.home / "run"
        self.log = self.home / "node.log"
        self.public = ""
        """`host:port` of the public port, once started."""
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._running().pid

    @property
    def socket(self) -> str:
        """The public API without a token, as a gRPC target."""
        return f"unix:{self.run_dir / 'orchestrator.sock'}"

    @property
    def token_file(self) -> Path:
        """What opens the public port."""
        return self.run_dir / "token"

    @property
    def token(self) -> str:
        """The token itself."""
        return self.token_file.read_text().strip()

    def start(self) -> None:
        """Start, and wait until the node says that it is ready; raises NodeFailed."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start and do not wait."""
        ports = ["--public", self.public or "127.0.0.1:0", "--dht-listen", "127.0.0.1:0"]
        directories = ["--data-dir", str(self.data_dir), "--run-dir", str(self.run_dir)]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.node", *directories, *ports, "--engines", self._engines],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                env=self._env,
                text=True,
            )

    def await_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the node says that it is ready; raises NodeFailed, and the node is killed then."""
        line = self._first_line(seconds)
        facts = dict(fact.split("=", 1) for fact in line.split()[1:] if "=" in fact)
        if not line.startswith("READY ") or "public" not in facts:
            self.kill()
            raise NodeFailed(f"the node is not ready after {seconds:g}s:\n{self.log_tail()}")
        self.public = facts["public"]

    def _first_line(self, seconds: float) -> str:
        process = self._running()
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return process.stdout.readline() if ready else ""

    def stop(self) -> int:
        """Stop in order and wait for it; the exit code. Raises NodeFailed when it takes too long."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeFailed(f"the node did not stop within {STOP_SECONDS:g}s:\n{self.log_tail()}") from None
        finally:
            self._close()

    def kill(self) -> None:
        """Kill the supervisor as a crash would; one that does not run is left alone."""
        if self._process is None:
            return
        process = self._process
        process.kill()
        process.wait(10)
        self._close()

    def node_id(self) -> str:
        """The node's id as its data directory has it, whether it runs or not; empty before its first start."""
        path = self.data_dir / "orchestrator" / "node_id"
        return path.read_text().strip() if path.exists() else ""

    def services(self) -> dict[str, int]:
        """The node's services that run now: module and process id."""
        return {
            module: pid for pid, module in _processes_naming(str(self.run_dir)).items() if module != "services.node"
        }

    def wait_gone(self, seconds: float) -> dict[str, int]:
        """Wait until no service of the node runs; those that still do."""
        until = time.monotonic() + seconds
        while (left := self.services()) and time.monotonic() < until:
            time.sleep(0.05)
        return left

    def log_tail(self, lines: int = 30) -> str:
        """The last lines that the node and its services logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def remove(self) -> None:
        """Delete its directories."""
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process is not None:
                self.stop()
        finally:
            self.remove()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise NodeFailed("the node is not running")
        return self._process

    def _close(self) -> None:
        process, self._process = self._running(), None
        if process.stdout is not None:
            process.stdout.close()


def _processes_naming(text: str) -> dict[int, str]:
    """Python processes `-m services.…` with `text` in their command line: process id and module."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        if "-m" in words and any(text in word for word in words):
            module = words[words.index("-m") + 1]
            if module.startswith("services."):
                found[int(path.parent.name)] = module
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Signal one process."""
    os.kill(pid, number)
