"""What the registry can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Knows every engine of this node, and which of them can be used."""

    listen: str = field(default_factory=lambda: f"unix:{run_home()}/registry.sock")
    """`unix:/path` or `127.0.0.1:port`."""
    data_dir: Path = field(default_factory=lambda: data_home() / "registry")
    """Keeps the default engine and the cordons."""
    log_level: str = "INFO"
    lease_seconds: float = 15.0
    """The lease of an engine that asks for none."""
    lease_min_seconds: float = 5.0
    lease_max_seconds: float = 3600.0
    keep_expired_seconds: float = 600.0
    """How long an engine whose lease ran out stays listed."""
    max_engines: int = 64
    flap_transitions: int = 3
    flap_window_seconds: float = 60.0
    flap_calm_seconds: float = 30.0
    ask_seconds: float = 3.0
    """How often each engine is asked how it is."""
    answer_seconds: float = 2.0
    """How long it may take to answer; the second silence in a row makes its health unknown."""
    tick_seconds: float = 0.5
    """How late a watcher may learn of an expired lease."""
    watch_log_size: int = 2048
    """So many changes back a watch can resume."""
    watch_buffer: int = 512
    """A watcher that lets more changes pile up is cut."""
    bookmark_seconds: float = 30.0
    drain_seconds: float = 3.0
