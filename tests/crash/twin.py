"""The mock engine under any name: `left` and `right` are two engines like any other, one the other's fallback."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from services import telemetry
from services.engines.engine import Info
from services.engines.mock.backend import MockBackend
from services.engines.mock.engine import MockEngine
from services.engines.mock.service import program
from services.engines.mock.settings import MockSettings
from services.engines.service import Program, run_engine
from services.rpc.process import run
from services.settings import load

BACKEND = "backend"


def main() -> None:
    """Serve; the process's name is the engine's id."""
    name = sys.argv[0]
    settings = load(MockSettings, program=name, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=name, level=settings.log_level)
    backend = MockBackend(Path(settings.data_dir) / BACKEND, clock=time.time)
    run(name, lambda stop: run_engine(settings, _named(name, program(backend)), stop))


def _named(name: str, mock: Program) -> Program:
    class Twin(MockEngine):
        @property
        def info(self) -> Info:
            return replace(super().info, engine=name)

    def make_engine(node_id: str) -> Twin:
        engine = mock.make_engine(node_id)
        engine.__class__ = Twin
        assert isinstance(engine, Twin)
        return engine

    return replace(mock, make_engine=make_engine)
