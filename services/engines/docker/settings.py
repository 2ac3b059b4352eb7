"""The docker engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engines.compose.settings import ComposeSettings
from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSettings(ComposeSettings):
    """Runs the docker engine: Compose files on docker."""

    listen: str = field(default_factory=lambda: f"unix:{run_home()}/docker.sock")
    data_dir: str = field(default_factory=lambda: f"{data_home()}/engines/docker")
    run_dir: str = field(default_factory=lambda: f"{run_home()}/docker")
    """Where Compose runs: an empty directory (0700)."""
    docker_socket: str = ""
    """docker's API socket, a path; empty: $DOCKER_HOST, or /var/run/docker.sock."""
    log_max_size: str = "10m"
    """How large a container's log file may grow, where its service does not say."""
    log_max_files: int = 3
    """How many such files are kept of a container."""

    def __post_init__(self) -> None:
        ComposeSettings.__post_init__(self)
        if self.log_max_files <= 0:
            raise ValueError(f"log_max_files must be more than 0, not {self.log_max_files}")
