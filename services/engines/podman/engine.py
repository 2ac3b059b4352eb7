"""The podman engine: Kubernetes Pods and Compose projects, each format by a part of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib import metadata
from typing import Self

from services.engines.engine import Health, Info, Resources
from services.engines.parts import EngineOfParts
from services.engines.podman import shelf
from services.engines.podman.api import Deadlines
from services.engines.podman.pods import PodmanPods
from services.engines.podman.probe import Probe
from services.engines.podman.projects import ComposeSetup, PodmanProjects
from services.engines.podman.service import PodmanService
from services.engines.pods.acts import SupervisorLimits
from services.engines.pods.fields import NodePolicy
from services.manifests import Format


class PodmanEngine(EngineOfParts):
    """Workloads on podman; see `Engine` for what each method promises."""

    def __init__(
        self,
        *,
        node_id: str,
        service: PodmanService,
        network: str = "podman",
        clock: Callable[[], float],
        deadlines: Deadlines | None = None,
        policy: NodePolicy | None = None,
        machine: Resources | None = None,
        init_timeout: float = 600.0,
        log_bytes: int = shelf.DEFAULT_BYTES,
        supervisor_limits: SupervisorLimits | None = None,
        compose: ComposeSetup | None = None,
    ) -> None:
        """`network` and what follows are as `PodmanPods` has them; `clock` gives seconds since 1970."""
        self._service = service
        self._probe = Probe(service=service, node_id=node_id, network=network, clock=clock)
        self._closing = AsyncExitStack()
        pods = PodmanPods(
            node_id=node_id,
            service=service,
            probe=self._probe,
            network=network,
            clock=clock,
            deadlines=deadlines,
            policy=policy,
            machine=machine,
            init_timeout=init_timeout,
            log_bytes=log_bytes,
            supervisor_limits=supervisor_limits,
        )
        self._projects = PodmanProjects(
            node_id=node_id,
            service=service,
            setup=compose or ComposeSetup(),
            probe=self._probe,
            clock=clock,
            log_bytes=log_bytes,
        )
        super().__init__(node_id=node_id, parts={Format.KUBERNETES: pods, Format.COMPOSE: self._projects})

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._service)  # its socket is final from here on
            await stack.enter_async_context(self._probe)
            await super().__aenter__()
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with self._closing:
            await super().__aexit__(*exc)

    @property
    def info(self) -> Info:
        """Identity and capabilities; the backend's version once a probe has read it."""
        return Info(
            engine="podman",
            display_name="Podman",
            engine_version=metadata.version("beemesh"),
            backend_version=self._probe.version,
            api_version=self._probe.api_version,
            capabilities=self.capabilities,
            formats=self.formats,
            kinds=self.kinds,
        )

    async def probe(self) -> Health:
        """Ping, info, and now and then a canary pod; without Compose podman is healthy, and the facts say so."""
        async with asyncio.TaskGroup() as group:
            health, compose = group.create_task(self._probe.run()), group.create_task(self._projects.look_for_compose())
        found = health.result()
        return replace(found, attributes={**found.attributes, **compose.result()}) if found.attributes else found
