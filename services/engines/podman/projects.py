"""Compose projects on podman: what docker's daemon does by itself is done here, and podman's own readers are used.

Podman has no daemon, so this starts again what ended, as its service says, and runs the health checks. Compose's own
restart policies are taken off before podman sees them: podman restarts without a back-off, and also what was stopped
just between two lives (4.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from services.engines.compose import labels, observe
from services.engines.compose.binary import Finder, Places
from services.engines.compose.fields import NodePolicy
from services.engines.compose.files import ComposeFiles
from services.engines.compose.projects import Projects
from services.engines.compose.runner import Runner, Times
from services.engines.compose.stamp import LogCap
from services.engines.docker_api import inspected
from services.engines.docker_api.api import Docker, Labels
from services.engines.docker_api.inspected import Inspected, labels_of, seconds
from services.engines.docker_api.teardown import grace_of
from services.engines.engine import (
    Change,
    Component,
    ComponentStats,
    Config,
    ExecOrder,
    ExecSession,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Severity,
    Spec,
    WorkloadState,
)
from services.engines.inside import pick, select
from services.engines.podman import exec as commands
from services.engines.podman import logs, shelf, version
from services.engines.podman import stats as counters
from services.engines.podman.api import Podman
from services.engines.podman.checks import Checks
from services.engines.podman.compose_rules import RULES, Adjustment, lacking, orders_of
from services.engines.podman.containers import Containers
from services.engines.podman.dialer import Dialer
from services.engines.podman.http import Refusal, UnixHttp
from services.engines.podman.machine import own_ulimits, this_machine
from services.engines.podman.observe import unexplained
from services.engines.podman.oom import killed_here
from services.engines.podman.probe import Probe
from services.engines.podman.service import PodmanService, check_length
from services.engines.podman.translator import Translator
from services.engines.pods.acts import Acts, SupervisorLimits
from services.engines.pods.memory import Memories
from services.engines.pods.supervision import Orders, Sighting
from services.engines.pods.supervisor import Supervisor
from services.engines.probes import Finding, Probes
from services.engines.restarts import BackOff, Exit
from services.engines.streams import closed_after
from services.errors import BeemeshError, FailedPrecondition
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.manifests import Manifest

DOCKERS_BACK_OFF = BackOff(base=0.1, cap=60.0, forget_after=10.0)
"""As docker's daemon restarts."""
_CALLS = 64
_FIND_SECONDS = 2.0
"""For a Compose to say its version, where that is only to be told."""
_NAME_SERVERS = (
    *(
        Path(prefix, "podman/aardvark-dns")
        for prefix in ("/usr/libexec", "/usr/lib", "/usr/local/libexec", "/usr/local/lib")
    ),
    *(Path(prefix, "cni/dnsname") for prefix in ("/usr/libexec", "/usr/lib", "/opt")),
)
"""Where podman has what answers for the names of containers."""
_NOTHING = Finding(ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeSetup:
    """Where Compose is, and what this node grants to its files."""

    places: Places = field(default_factory=Places)
    logins: Path | None = None
    """A directory with docker's config.json."""
    policy: NodePolicy = field(default_factory=NodePolicy)
    times: Times = field(default_factory=Times)
    limits: SupervisorLimits = field(default_factory=lambda: SupervisorLimits(back_off=DOCKERS_BACK_OFF))
    ulimits: Mapping[str, int] = field(default_factory=lambda: own_ulimits(this_machine(has_runc=False)))
    """See `Adjustment`."""


class PodmanProjects(Projects):
    """Compose projects on podman; see `Workloads` for what each method promises."""

    def __init__(
        self,
        *,
        node_id: str,
        service: PodmanService,
        setup: ComposeSetup,
        probe: Probe,
        clock: Callable[[], float],
        log_bytes: int,
    ) -> None:
        """`service` is open while this is; `probe` knows podman's version and what its user may do.

        A container's log takes `log_bytes` at most.
        """
        self._service = service
        self._probe = probe
        self._translator = Translator(service.run_dir / "compose.sock", upstream=lambda: service.socket)
        workdir = service.run_dir / "compose-empty"
        self.finder = Finder(setup.places, workdir=workdir)
        runner = Runner(
            finder=self.finder,
            socket=self._translator.path,
            workdir=workdir,
            logins=setup.logins,
            times=setup.times,
        )
        files = ComposeFiles(
            runner=runner,
            policy=setup.policy,
            log_cap=LogCap(max_size=f"{log_bytes // shelf.FILES}b", max_files=1),
            rules=RULES,
            adjust=Adjustment(ulimits=setup.ulimits).of,
        )
        self._limits = setup.limits
        self._memories = Memories(service.data_dir / "compose-restarts")
        self._shelf = shelf.Shelf()
        self._monitors: dict[str, tuple[str, Mapping[str, Any]]] = {}
        """By container: the start of its run, and what of podman's own inspection its log needs."""
        self._killed: dict[tuple[str, float], bool] = {}
        """By container and the end of its run: whether the kernel killed it for want of memory."""
        self._open = AsyncExitStack()
        self.compose_fault: BeemeshError | None = None
        """Why Compose could not be used when it was last looked for."""
        super().__init__(
            engine_id="podman",
            node_id=node_id,
            docker=Docker(lambda: service.socket, backend="podman"),
            runner=runner,
            files=files,
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        check_length(self._translator.path)
        http = UnixHttp(self._service.socket, concurrency=_CALLS)
        self._podman = Podman(http)
        self._containers = Containers(http)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._docker)
            await stack.enter_async_context(self._translator)
            self._supervisor = Supervisor(
                events=self._events,
                dialer=Dialer(self._podman),
                memories=self._memories,
                acts=Acts(
                    read=self.observe,
                    forget_inspection=lambda _: None,
                    start=self._containers.start,
                    post_start=_no_hook,
                    stop=self._stop_container,
                ),
                may_run=lambda workload_id: self.may_run is None or self.may_run(workload_id),
                clock=self._clock,
                limits=self._limits,
            )
            self._checks = Checks(socket=lambda: self._service.socket, clock=self._clock, wake=self._supervisor.wake)
            await stack.enter_async_context(self._checks)
            await stack.enter_async_context(self._supervisor)
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._open.aclose()

    async def look_for_compose(self) -> dict[str, str]:
        """Facts about Compose for the engine's health; an engine without it runs pods all the same."""
        try:
            async with asyncio.timeout(_FIND_SECONDS):
                found = await self.finder.find()
        except TimeoutError:  # it may be busy: who needs it waits longer
            return {"compose": f"does not say its version within {_FIND_SECONDS:g} s"}
        except BeemeshError as error:
            self.compose_fault = error
            return {"compose": f"{error.reason}: {error.message}"}
        self.compose_fault = None
        facts = {"compose_version": found.version, "compose_path": str(found.path)}
        if self._service.binary is not None and not any(map(Path.exists, _NAME_SERVERS)):
            facts["compose_names"] = "services do not find each other by name: install aardvark-dns"
        return facts

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """The same as on docker, what podman does otherwise, and whether there is a Compose at all."""
        document = manifest.primary
        lacks = lacking(document.body, self._probe.ability) if self._probe.ability.rootless else ()
        issues = [*super().check(manifest, config), *(finding.issue(document) for finding in lacks)]
        if self.compose_fault is not None:
            fault = self.compose_fault
            issues.append(
                Issue(severity=Severity.ERROR, field_path="", reason=fault.reason, message=fault.message, line=1)
            )
        return issues

    # What is started again, and when not

    async def create(self, spec: Spec) -> None:
        """An earlier one of this id may have been ended, and be gone."""
        self._supervisor.begin(spec.workload_id)
        await super().create(spec)

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """Compose stops what it makes anew: nobody starts that again meanwhile."""
        await self._supervisor.end(new.workload_id)
        try:
            await super().update(old, new, changes)
        finally:
            self._supervisor.begin(new.workload_id)

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """The supervisor knows first; as in all below."""
        await self._supervisor.end(workload_id)
        await super().destroy(workload_id, grace_seconds=grace_seconds, force=force, remove_volumes=remove_volumes)
        await self._supervisor.forget(workload_id)

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """See `Projects.stop`."""
        await self._supervisor.end(workload_id)
        await super().stop(workload_id, grace_seconds=grace_seconds, signal=signal)

    async def start(self, workload_id: str) -> None:
        """The supervisor goes on from there."""
        await super().start(workload_id)
        self._supervisor.begin(workload_id)

    async def _roll_back(self, workload_id: str, volumes_before: set[str], cause: BaseException) -> None:
        await self._supervisor.end(workload_id)
        await super()._roll_back(workload_id, volumes_before, cause)

    async def _stop_container(self, container: str, seconds: float) -> None:
        await self._docker.stop(container, seconds=int(seconds), grace=seconds)

    # Observe

    async def _observe(self, mine: Labels) -> Mapping[str, Observation]:
        began, whole = asyncio.get_running_loop().time(), LABEL_WORKLOAD_ID not in mine
        containers, networks = await self._read(mine)
        await asyncio.gather(*map(self._explain, containers))
        self._checks.see(containers, whole=whole)
        if whole:
            await self._look_at_logs(containers)
            self._killed = {
                run: known for run, known in self._killed.items() if run[0] in {c["Id"] for c in containers}
            }
        self._supervisor.see(map(sighting, containers), began=began, whole=whole)
        return {
            workload_id: replace(each, components=tuple(map(self._described, each.components)))
            for workload_id, each in observe.assemble(self.node_id, containers, networks).items()
        }

    async def _explain(self, container: dict[str, Any]) -> None:
        """Of a container that was killed: whether it was for want of memory, where podman does not know."""
        if life := unexplained(container["Id"], container):
            run = (container["Id"], life.finish_time)
            if run not in self._killed:
                self._killed[run] = await asyncio.to_thread(killed_here, life)
            container["State"]["OOMKilled"] = self._killed[run]

    def _described(self, component: Component) -> Component:
        """Whether it is ready its health check says, or nothing."""
        told = self._supervisor.describe(component)
        if component.state is not WorkloadState.RUNNING:
            return told
        return replace(component, restart_count=told.restart_count, last_exit=told.last_exit)

    async def _look_at_logs(self, containers: Iterable[Inspected]) -> None:
        """Keep the files of logs that podman's monitor takes away; each run has another monitor."""
        known: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for container in containers:
            name, run = container["Id"], str((container.get("State") or {}).get("StartedAt"))
            if (container.get("State") or {}).get("Status") != "running":
                continue
            before = self._monitors.get(name)
            try:
                known[name] = before if before and before[0] == run else (run, await self._podman.inspect(name))
            except Refusal:  # it has just been removed
                continue
        self._monitors = known
        self._shelf.look(dict(logs.written(found for _, found in known.values())))

    # Podman's own readers

    @asynccontextmanager
    async def exec(self, workload_id: str, order: ExecOrder) -> AsyncIterator[ExecSession]:
        """See `exec.running`."""
        component = pick(workload_id, await self._there(workload_id), order.component_id)
        async with commands.running(self._containers, workload_id, component.component_id, order) as session:
            yield session

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """See `stats.sample`."""
        running = [each.component_id for each in await self._there(workload_id)]
        return await self._asking(
            counters.sample(self._containers, running, backend_version=version.parse(self._probe.version))
        )

    async def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """See `Logs`."""
        components = select(await self._there(workload_id), query.component_id)
        if query.component_id and not components:
            raise self._absent("component", query.component_id, workload_id)
        reader = logs.Logs(podman=self._podman, components=components, query=query, clock=self._clock)
        reader.comes_back = self._supervisor.comes_back
        try:
            async with closed_after(reader.batches()) as batches:
                async for batch in batches:
                    yield batch
        except Refusal as refusal:
            if "log driver" in refusal.text:
                raise FailedPrecondition(
                    f"podman keeps no log of {workload_id} that can be read: see its logging driver",
                    reason="LOGS_NOT_KEPT",
                ) from refusal
            raise self._refused(refusal) from refusal

    async def _events(self) -> AsyncIterator[None]:
        """Those of Compose's containers: podman's filter is content with any of several labels (4.3)."""
        async with closed_after(self._podman.events({LABEL_NODE_ID: self.node_id})) as events:
            async for said in events:
                if labels.PROJECT.encode() in said:
                    yield

    async def changes(self) -> AsyncIterator[None]:
        """Podman's events, and what the health checks find."""
        async with closed_after(self._supervisor.changes()) as changes:
            async for _ in changes:
                yield


def sighting(container: Inspected) -> Sighting:
    """A container as the supervisor sees it. Pure."""
    state, marks = container.get("State") or {}, labels_of(container)
    policy, attempts = orders_of(marks)
    started = seconds(state.get("StartedAt"))
    _, ended = inspected.state_of(state)
    return Sighting(
        container_id=str(container["Id"]),
        name=marks.get(labels.SERVICE, ""),
        workload_id=marks.get(LABEL_WORKLOAD_ID, ""),
        infra_id="",
        orders=Orders(
            policy=policy,
            attempts=attempts,
            host_network=False,
            grace_seconds=grace_of(container),
            probes=Probes(),
        ),
        run=str(state.get("StartedAt")) if started is not None else "",
        started_at=started or 0.0,
        running=state.get("Status") == "running",
        exit=None
        if ended is None or started is None
        else Exit(
            exit_code=ended.exit_code,
            reason=ended.reason,
            start_time=started,
            finish_time=max(started, ended.finish_time or started),
        ),
    )


async def _no_hook(_: str) -> Finding:
    return _NOTHING
