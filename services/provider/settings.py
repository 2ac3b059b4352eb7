"""What the provider can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Keeps this node's key, announces what it runs, and finds who runs what."""

    listen: str = field(default_factory=lambda: f"unix:{run_home()}/provider.sock")
    """`unix:/path` or `127.0.0.1:port`."""
    data_dir: Path = field(default_factory=lambda: data_home() / "provider")
    """Keeps `node.key` and the records."""
    dht_listen: str = "127.0.0.1:7445"
    """UDP, `address:port`; port 0: any free one, told by GetDhtStatus."""
    dht_peers: str = ""
    """`address:port,…` of nodes to join; not in this release: refused at start."""
    log_level: str = "INFO"
    ttl_seconds: float = 900.0
    """Of announcements that name none."""
    max_announcements: int = 16_384
    """Own ones."""
    max_records: int = 65_536
    """Of others."""
    max_record_bytes: int = 32 << 20
    """Of all packets; others' are refused beyond it."""
    max_records_per_source: int = 4_096
    max_providers_per_manifest: int = 512
    """Of others; beyond it a keyed hash decides who stays."""
    drain_seconds: float = 3.0
