"""beemesh-engine-docker: reads settings, then serves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from services import telemetry
from services.engines.compose.stamp import LogCap
from services.engines.docker.engine import DockerEngine, Machine
from services.engines.docker.settings import DockerSettings
from services.engines.engine import Engine
from services.engines.pods.acts import SupervisorLimits
from services.engines.restarts import BackOff
from services.engines.service import Program, run_engine
from services.errors import FailedPrecondition
from services.rpc.process import run
from services.settings import load

PROGRAM = "beemesh-engine-docker"
SYSTEM_SOCKET = Path("/var/run/docker.sock")


def main() -> None:
    """Run the docker engine."""
    settings = load(DockerSettings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=PROGRAM, level=settings.log_level)
    program = Program(make_engine=lambda node_id: make_engine(settings, node_id, os.environ))
    run(PROGRAM, lambda stop: run_engine(settings, program, stop))


def make_engine(settings: DockerSettings, node_id: str, env: Mapping[str, str]) -> Engine:
    """The engine as the settings have it; raises FailedPrecondition(BAD_DOCKER_HOST)."""
    machine = Machine(
        socket=Path(settings.docker_socket) if settings.docker_socket else named_socket(env),
        run_dir=Path(settings.run_dir),
        data_dir=Path(settings.data_dir),
        compose=settings.places,
        logins=settings.logins,
        policy=settings.file_policy,
        log_cap=LogCap(max_size=settings.log_max_size, max_files=settings.log_max_files),
        times=settings.times,
        init_timeout=settings.init_timeout,
        pause_image=settings.pause_image,
        supervisor=SupervisorLimits(
            back_off=BackOff(base=settings.restart_back_off, cap=settings.restart_back_off_max)
        ),
    )
    return DockerEngine(node_id=node_id, machine=machine, clock=time.time)


def named_socket(env: Mapping[str, str]) -> Path:
    """The socket in $DOCKER_HOST, or docker's usual one; raises FailedPrecondition for another kind of host."""
    host = env.get("DOCKER_HOST", "")
    if not host:
        return SYSTEM_SOCKET
    if not host.startswith("unix://"):
        raise FailedPrecondition(
            f"DOCKER_HOST={host}: engine docker speaks to unix:// sockets only; unset it or set docker_socket",
            reason="BAD_DOCKER_HOST",
        )
    return Path(host.removeprefix("unix://"))


if __name__ == "__main__":
    main()
