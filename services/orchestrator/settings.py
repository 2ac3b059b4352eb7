"""The orchestrator's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The orchestrator: the apply flow, and the node's public port."""

    listen: str = field(default_factory=lambda: f"unix:{run_home() / 'orchestrator.sock'}")
    """The API on a Unix socket (0600): who can open it needs no token."""
    public: str = "127.0.0.1:7443"
    """The public port; "" for none. Other than loopback needs TLS and a token."""
    token_file: Path = field(default_factory=lambda: run_home() / "token")
    """Guards the public port; made, 0600, when it does not exist."""
    tls_certificate: str = ""
    tls_key: str = ""
    data_dir: Path = field(default_factory=lambda: data_home() / "orchestrator")
    registry: str = field(default_factory=lambda: f"unix:{run_home() / 'registry.sock'}")
    provider: str = field(default_factory=lambda: f"unix:{run_home() / 'provider.sock'}")
    cpu: float = 0.0
    """Allocatable cores; 0: measured."""
    memory: int = 0
    """Allocatable bytes; 0: measured."""
    announce_refresh: float = 300.0
    """Seconds after which all is announced anew, for a provider that lost its memory."""
    applied_records: bool = True
    """Also write the applied-manifest records that older clients read."""
    log_level: str = "INFO"
