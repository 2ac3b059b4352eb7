"""The docker engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engines.settings import EngineSettings
from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSettings(EngineSettings):
    """Runs the docker engine: Compose files on docker."""

    listen: str = field(default_factory=lambda: f"unix:{run_home()}/docker.sock")
    data_dir: str = field(default_factory=lambda: f"{data_home()}/engines/docker")
    run_dir: str = field(default_factory=lambda: f"{run_home()}/docker")
    """Where Compose runs: an empty directory (0700)."""
    docker_socket: str = ""
    """docker's API socket, a path; empty: $DOCKER_HOST, or /var/run/docker.sock."""
    compose_binary: str = ""
    """Compose 2 or newer, a name on PATH or a path; empty: docker's plugin, docker-compose on PATH, or the one that
    is installed beside this Python."""
    docker_config: str = ""
    """A directory with a config.json as `docker login` writes it: the logins for pulls; empty: none are used."""
    compose_files: str = ""
    """The directory below which Compose files may name files (env_file, secrets, configs); empty: nowhere."""
    host_access: bool = False
    """Let workloads at this machine: its paths, networks, devices, names, all capabilities, privileged containers."""
    log_max_size: str = "10m"
    """How large a container's log file may grow, where its service does not say."""
    log_max_files: int = 3
    """How many such files are kept of a container."""
    pull_timeout: float = 600.0
    """Seconds for pulling the images of one workload."""
    up_timeout: float = 600.0
    """Seconds for bringing up one workload, pulls and waiting for healthy dependencies included."""

    def __post_init__(self) -> None:
        EngineSettings.__post_init__(self)
        for name in ("pull_timeout", "up_timeout", "log_max_files"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name):g}")
