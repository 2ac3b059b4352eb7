"""The mock engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engines.settings import EngineSettings
from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class MockSettings(EngineSettings):
    """Runs the mock engine: it starts nothing, and fails when told to; for demos and tests."""

    listen: str = field(default_factory=lambda: f"unix:{run_home()}/mock.sock")
    data_dir: str = field(default_factory=lambda: f"{data_home()}/engines/mock")
