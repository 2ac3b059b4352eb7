"""The wasm engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engines.settings import EngineSettings
from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class WasmSettings(EngineSettings):
    """Runs the wasm engine: functions, as WebAssembly."""

    listen: str = field(default_factory=lambda: f"unix:{run_home()}/wasm.sock")
    data_dir: str = field(default_factory=lambda: f"{data_home()}/engines/wasm")
    cache_dir: str = ""
    """What is built once (the Python runtime) and compiled code; empty: `cache` in data_dir. Engines may share one."""
    node_modules: str = ""
    """The directory with jco, which builds the JavaScript runtime; empty: jco is searched on PATH."""
    code_dirs: str = ""
    """Directories, separated by `:`, below which a manifest may name code by path; empty: none."""
    workers: int = 32
    """Worker processes at most, over all functions; each runs one call at a time."""
    spare_workers: int = 1
    """Workers started ahead while functions are in use, so that a cold start does not wait for a process."""
    idle_timeout: float = 300.0
    """Seconds after which an instance that nobody calls is ended."""
    queue: int = 256
    """Calls of one function that may wait for an instance."""
    queue_timeout: float = 30.0
    """Seconds that a call waits for an instance."""
    event_limit: int = 6 << 20
    """Bytes of an event, and of a result, as JSON; at most 12 MiB."""

    def __post_init__(self) -> None:
        # `super()` without arguments does not work in a dataclass with slots.
        EngineSettings.__post_init__(self)
        for name in ("workers", "idle_timeout", "queue_timeout", "event_limit"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        if not 0 <= self.spare_workers < self.workers:
            raise ValueError(f"spare_workers must be at least 0 and less than workers, not {self.spare_workers}")
        if self.queue < 0:
            raise ValueError(f"queue must not be negative, not {self.queue}")
        if self.event_limit > 12 << 20:
            raise ValueError("event_limit must be at most 12 MiB: a message holds 16")
