"""The wasm engine in the conformance suite."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

from services.engines.service import run_engine
from services.engines.wasm.service import program
from services.engines.wasm.settings import WasmSettings
from services.manifests import Format
from tests.harness.engines import NODE_A, EngineClient, running

CACHE = Path(__file__).parents[2] / ".build" / "wasm"
"""The Python runtime is built once for all tests of a checkout."""

_BUILD_SECONDS = 600

_FUNCTION = """\
apiVersion: beemesh.io/v1
kind: Function
metadata:
  name: {name}
spec:
  runtime: python:3.14
  handler: main.process
  memory: 128Mi
  code:
    inline: |
      for number in range(12):
          print("{word}", number)

      def process(event):
          return event
"""


def build() -> None:
    """Have the Python runtime in the cache; half a minute of one core the first time."""
    command = [sys.executable, "-m", "services.engines.wasm.toolchain", "--cache-dir", str(CACHE)]
    subprocess.run(command, check=True, capture_output=True, timeout=_BUILD_SECONDS)


def wasm_engine(
    directory: Path, *, name: str = "engine", node_id: str = NODE_A, **settings: Any
) -> AbstractAsyncContextManager[EngineClient]:
    """A wasm engine in this process, with its data in `<directory>/<name>`."""
    given: dict[str, Any] = {
        "listen": f"unix:{directory}/{name}.sock",
        "data_dir": f"{directory}/{name}",
        "cache_dir": str(CACHE),
        "registry": "",
        "provider": "",
        "node_id": node_id,
        "probe_interval": 1.0,
        "probe_timeout": 30.0,
        "poll_interval": 1.0,
        "observe_timeout": 10.0,
    }
    chosen = WasmSettings(**(given | settings))
    return running(chosen.listen, lambda stop: run_engine(chosen, program(chosen), stop))


class WasmHarness:
    """Functions are directories of the engine that has them: two services never share any."""

    formats: tuple[Format, ...] = (Format.FUNCTION,)
    has_processes = False
    image = ""

    def __enter__(self) -> Self:
        build()
        return self

    def __exit__(self, *exc: object) -> None:
        return

    def objects(self) -> set[str]:
        """It runs no containers."""
        return set()

    def serve(
        self, directory: Path, *, name: str = "engine", node_id: str = NODE_A
    ) -> AbstractAsyncContextManager[EngineClient]:
        """In this process."""
        return wasm_engine(directory, name=name, node_id=node_id)

    def workload(self, format_: Format, name: str) -> str:
        """A function that writes twelve lines when it is loaded."""
        return _FUNCTION.format(name=name, word="line")

    def changed(self, format_: Format, name: str) -> str:
        """It writes other words."""
        return _FUNCTION.format(name=name, word="other line")
