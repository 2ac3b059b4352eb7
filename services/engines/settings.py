"""The settings that every engine has; an engine's own settings class adds to them and sets its defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.settings import run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Runs one runtime engine of a node."""

    listen: str
    """Where it serves: `unix:/path` or `host:port`."""
    data_dir: str
    """Records, and what else must survive a restart (0700); one process at a time."""
    advertise: str = ""
    """The target that others reach it at; empty: `listen`."""
    registry: str = field(default_factory=lambda: f"unix:{run_home()}/registry.sock")
    """The registry's target; empty: do not register."""
    provider: str = field(default_factory=lambda: f"unix:{run_home()}/provider.sock")
    """The provider's target, for the node's id."""
    node_id: str = ""
    """40 hex digits; empty: the provider says."""
    probe_interval: float = 5.0
    """Seconds between two probes of the backend."""
    probe_timeout: float = 4.0
    """Seconds after which a probe means UNHEALTHY."""
    poll_interval: float = 5.0
    """Seconds between two readings of the whole backend."""
    observe_timeout: float = 3.0
    """Seconds that a read of one workload waits for the backend."""
    priority: int = 100
    """In the registry; lower is preferred."""
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        for name in ("probe_interval", "probe_timeout", "poll_interval", "observe_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0 seconds, not {getattr(self, name):g}")
