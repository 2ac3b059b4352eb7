"""The podman engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.engines.compose.settings import ComposeSettings
from services.engines.podman.shelf import DEFAULT_BYTES, LEAST_BYTES
from services.settings import data_home, run_home


@dataclass(frozen=True, slots=True, kw_only=True)
class PodmanSettings(ComposeSettings):
    """Runs the podman engine: Kubernetes Pods and Compose files on podman."""

    listen: str = field(default_factory=lambda: f"unix:{run_home()}/podman.sock")
    data_dir: str = field(default_factory=lambda: f"{data_home()}/engines/podman")
    run_dir: str = field(default_factory=lambda: f"{run_home()}/podman")
    """Where a podman service of the engine's own has its socket and its empty working directory (0700)."""
    podman_socket: str = ""
    """podman's API socket, a path; empty: $CONTAINER_HOST, /run/podman/podman.sock if it answers, else a service of
    the engine's own."""
    podman_binary: str = "podman"
    """The program for a service of the engine's own."""
    podman_network: str = "podman"
    """The network that pods join. podman's built-in one needs no creating and leaves nothing behind; with none named,
    play creates `podman-default-kube-network` and leaves it."""
    containers_conf: str = ""
    """containers.conf for a service of the engine's own; empty: podman's, or one written where the machine needs it."""
    registry_certs: str = ""
    """A directory of PEM files: certificate authorities that a service of the engine's own trusts, for every registry,
    beside the system's. For one registry alone, and for a podman_socket, use podman's /etc/containers/certs.d."""
    init_timeout: float = 600.0
    """Seconds that an init container may take."""
    container_log_bytes: int = DEFAULT_BYTES
    """Of each container's log that are kept at most, in up to three files; the oldest go first. Counts for containers
    made from now on."""
    restart_back_off: float = 10.0
    """Seconds that a container's second restart waits; each one after it twice as long."""
    restart_back_off_max: float = 300.0
    """Seconds that a restart waits at most."""

    def __post_init__(self) -> None:
        ComposeSettings.__post_init__(self)
        if not 0 < self.restart_back_off <= self.restart_back_off_max:
            raise ValueError(
                f"restart_back_off must be more than 0 seconds and at most restart_back_off_max, not "
                f"{self.restart_back_off:g}"
            )
        if self.container_log_bytes < LEAST_BYTES:
            raise ValueError(f"container_log_bytes must be at least {LEAST_BYTES}, not {self.container_log_bytes}")
