"""What `beemesh-node` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Runs every service of a Beemesh node; `backup FILE` saves what it knows, `restore FILE` brings it back."""

    data_dir: Path = field(default_factory=data_home)
    """What must outlive a restart: identity, deployments, records."""
    run_dir: Path = field(default_factory=run_home)
    """Sockets and the token file."""
    public: str = "127.0.0.1:7443"
    """The public port, `host:port`; port 0 takes a free one, the READY line says which."""
    dht_listen: str = "127.0.0.1:7445"
    """UDP address of the DHT, `host:port`; port 0 takes a free one."""
    engines: str = "auto"
    """`auto` (every engine whose backend is installed), or a comma list; `mock` only by name; empty for none."""
    token_file: Path | None = None
    """Guards the public port; default `<run_dir>/token`, made when it does not exist."""
    stop_seconds: float = 10.0
    """How long each service may take to stop before it is killed."""
    hang_seconds: float = 60.0
    """A service that answers nothing for so long is killed and started again; 0: it never is."""
    log_level: str = "INFO"
