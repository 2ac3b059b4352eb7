"""The docker engine: Compose projects and Kubernetes Pods on docker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Self

from services.engines.compose.binary import Finder, Places
from services.engines.compose.fields import NodePolicy
from services.engines.compose.files import ComposeFiles
from services.engines.compose.projects import Projects
from services.engines.compose.runner import Runner, Times
from services.engines.compose.stamp import LogCap
from services.engines.docker.pods.part import DockerPods, PodSettings
from services.engines.docker.probe import Probe
from services.engines.docker_api.api import Deadlines, Docker
from services.engines.engine import Health, Info
from services.engines.parts import EngineOfParts
from services.engines.pods.acts import SupervisorLimits
from services.engines.pods.fields import NodePolicy as PodPolicy
from services.manifests import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where docker and Compose are, and what this node grants."""

    socket: Path
    """docker's API socket."""
    run_dir: Path
    """Made when it is not there."""
    data_dir: Path
    """What must be remembered of pods."""
    compose: Places = field(default_factory=Places)
    logins: Path | None = None
    """A directory with docker's config.json."""
    policy: NodePolicy = field(default_factory=NodePolicy)
    log_cap: LogCap = field(default_factory=LogCap)
    times: Times = field(default_factory=Times)
    deadlines: Deadlines = field(default_factory=Deadlines)
    init_timeout: float = 600.0
    """Seconds that an init container may take."""
    pause_image: str = ""
    """What holds a pod's network; empty: our own."""
    supervisor: SupervisorLimits = field(default_factory=SupervisorLimits)

    @property
    def workdir(self) -> Path:
        """Where Compose runs; nothing may be in it, as Compose would read it."""
        return self.run_dir / "compose-empty"


class DockerEngine(EngineOfParts):
    """Compose projects and Pods on docker; see `Engine` for what each method promises."""

    def __init__(self, *, node_id: str, machine: Machine, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970."""
        finder = Finder(machine.compose, workdir=machine.workdir)
        self._docker = docker = Docker(lambda: machine.socket, deadlines=machine.deadlines)
        self._probe = Probe(socket=machine.socket, docker=docker, finder=finder, node_id=node_id, clock=clock)
        runner = Runner(
            finder=finder,
            socket=machine.socket,
            workdir=machine.workdir,
            logins=machine.logins,
            times=machine.times,
        )
        projects = Projects(
            engine_id="docker",
            node_id=node_id,
            docker=docker,
            runner=runner,
            files=ComposeFiles(runner=runner, policy=machine.policy, log_cap=machine.log_cap),
            clock=clock,
        )
        settings = PodSettings(
            data_dir=machine.data_dir,
            policy=PodPolicy(host_access=machine.policy.host_access),
            log_cap=machine.log_cap,
            pull_timeout=machine.times.pull,
            init_timeout=machine.init_timeout,
            pause_image=machine.pause_image,
            supervisor=machine.supervisor,
        )
        pods = DockerPods(
            node_id=node_id, docker=docker, settings=settings, storage=lambda: self._probe.storage, clock=clock
        )
        super().__init__(node_id=node_id, parts={Format.COMPOSE: projects, Format.KUBERNETES: pods})

    async def __aenter__(self) -> Self:
        await self._docker.__aenter__()
        return await super().__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        await self._docker.__aexit__(*exc)

    @property
    def info(self) -> Info:
        """Identity and capabilities; the backend's version once a probe has read it."""
        return Info(
            engine="docker",
            display_name="Docker",
            engine_version=metadata.version("beemesh"),
            backend_version=self._probe.version,
            api_version=self._probe.api_version,
            capabilities=self.capabilities,
            formats=self.formats,
            kinds=self.kinds,
        )

    async def probe(self) -> Health:
        """Ping, info, Compose, and now and then a canary container."""
        return await self._probe.run()
