"""The docker engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engines.compose.settings import ComposeSettings
from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSettings(ComposeSettings):
    """Runs the docker engine: Compose files and Kubernetes Pods on docker."""

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

    init_timeout: float = 600.0
    """Seconds that an init container of a Pod may take."""
    pause_image: str = ""
    """What holds the network of a Pod, an image that docker has and whose program sleeps for ever; empty: one that the
    engine makes, which takes no registry."""
    restart_back_off: float = 10.0
    """Seconds that the second restart of a Pod's container waits; each one after it twice as long."""
    restart_back_off_max: float = 300.0
    """Seconds that a restart waits at most."""

    def __post_init__(self) -> None:
        ComposeSettings.__post_init__(self)
        if not 0 < self.restart_back_off <= self.restart_back_off_max:
            raise ValueError(
                f"restart_back_off must be more than 0 seconds and at most restart_back_off_max, not "
                f"{self.restart_back_off:g}"
            )
        for name in ("init_timeout", "log_max_files"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name):g}")
