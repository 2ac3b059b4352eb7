"""The settings of an engine that runs Compose files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.engines.compose.binary import Places
from services.engines.compose.fields import NodePolicy
from services.engines.compose.runner import Times
from services.engines.settings import EngineSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeSettings(EngineSettings):
    """What is the same on every daemon."""

    compose_binary: str = ""
    """Compose 2 or newer, a name on PATH or a path; empty: docker's plugin, docker-compose on PATH, or the one that
    is installed beside this Python."""
    docker_config: str = ""
    """A directory with a config.json as `docker login` writes it: the logins for a Compose file's images; empty: none
    are used."""
    compose_files: str = ""
    """The directory below which Compose files may name files (env_file, secrets, configs); empty: nowhere."""
    host_access: bool = False
    """Let workloads at this machine: its paths, networks, devices, names, all capabilities, privileged containers."""
    pull_timeout: float = 600.0
    """Seconds for pulling the images of one Compose file, or one image of a Pod."""
    up_timeout: float = 600.0
    """Seconds for bringing up one Compose file, pulls and waiting for healthy dependencies included."""

    def __post_init__(self) -> None:
        EngineSettings.__post_init__(self)
        for name in ("pull_timeout", "up_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name):g}")

    @property
    def places(self) -> Places:
        """Where Compose may be."""
        return Places(named=self.compose_binary)

    @property
    def logins(self) -> Path | None:
        """Where logins are."""
        return Path(self.docker_config) if self.docker_config else None

    @property
    def times(self) -> Times:
        """What Compose is given."""
        return Times(pull=self.pull_timeout, up=self.up_timeout)

    @property
    def file_policy(self) -> NodePolicy:
        """What Compose files may do."""
        root = Path(self.compose_files) if self.compose_files else None
        return NodePolicy(host_access=self.host_access, file_root=root)
