"""beemesh-engine-podman: reads settings, then serves."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from services import telemetry
from services.engines.engine import Engine
from services.engines.podman.api import Deadlines
from services.engines.podman.engine import PodmanEngine
from services.engines.podman.projects import ComposeSetup
from services.engines.podman.service import PodmanService, ServiceSettings
from services.engines.podman.settings import PodmanSettings
from services.engines.pods.acts import SupervisorLimits
from services.engines.pods.fields import NodePolicy
from services.engines.restarts import BackOff
from services.engines.service import Program, run_engine
from services.rpc.process import run
from services.settings import load

PROGRAM = "beemesh-engine-podman"


def main() -> None:
    """Run the podman engine."""
    settings = load(PodmanSettings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=PROGRAM, level=settings.log_level)
    program = Program(make_engine=lambda node_id: make_engine(settings, node_id))
    run(PROGRAM, lambda stop: run_engine(settings, program, stop))


def make_engine(settings: PodmanSettings, node_id: str) -> Engine:
    """The engine as the settings have it."""
    service = PodmanService(
        ServiceSettings(
            socket=Path(settings.podman_socket) if settings.podman_socket else None,
            binary=settings.podman_binary,
            containers_conf=Path(settings.containers_conf) if settings.containers_conf else None,
            run_dir=Path(settings.run_dir),
            data_dir=Path(settings.data_dir),
            registry_certs=Path(settings.registry_certs) if settings.registry_certs else None,
        )
    )
    return PodmanEngine(
        node_id=node_id,
        service=service,
        network=settings.podman_network,
        clock=time.time,
        deadlines=Deadlines(pull=settings.pull_timeout),
        policy=NodePolicy(host_access=settings.host_access),
        init_timeout=settings.init_timeout,
        log_bytes=settings.container_log_bytes,
        supervisor_limits=SupervisorLimits(
            back_off=BackOff(base=settings.restart_back_off, cap=settings.restart_back_off_max)
        ),
        compose=ComposeSetup(
            places=settings.places,
            logins=settings.logins,
            policy=settings.file_policy,
            times=settings.times,
        ),
    )


if __name__ == "__main__":
    main()
