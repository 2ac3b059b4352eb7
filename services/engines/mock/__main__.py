"""beemesh-engine-mock: reads settings, then serves."""

from __future__ import annotations

import os
import sys

from services import telemetry
from services.engines.mock.service import serve
from services.engines.mock.settings import MockSettings
from services.rpc.process import run
from services.settings import load

PROGRAM = "beemesh-engine-mock"


def main() -> None:
    """Run the mock engine."""
    settings = load(MockSettings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=PROGRAM, level=settings.log_level)
    run(PROGRAM, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    main()
