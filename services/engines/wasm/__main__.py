"""beemesh-engine-wasm: reads settings, then serves."""

from __future__ import annotations

import os
import sys

from services import telemetry
from services.engines.service import run_engine
from services.engines.wasm.service import program
from services.engines.wasm.settings import WasmSettings
from services.rpc.process import run
from services.settings import load

PROGRAM = "beemesh-engine-wasm"


def main() -> None:
    """Run the wasm engine."""
    settings = load(WasmSettings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=PROGRAM, level=settings.log_level)
    run(PROGRAM, lambda stop: run_engine(settings, program(settings), stop))


if __name__ == "__main__":
    main()
