"""The wasm engine: functions are directories; their instances are worker processes that come and go with the calls."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self, TypeVar

from services.engines.backend import not_found
from services.engines.engine import (
    Capability,
    ComponentStats,
    Config,
    Engine,
    Export,
    Health,
    HealthState,
    Info,
    Invocation,
    Invoked,
    Issue,
    LogLine,
    LogQuery,
    Observation,
    Spec,
)
from services.engines.export import export
from services.engines.wasm import code, function, usage
from services.engines.wasm.canary import try_out
from services.engines.wasm.deployed import Deployed, Means
from services.engines.wasm.live import LiveFunction, LiveLimits
from services.engines.wasm.pool import Pool
from services.engines.wasm.runtimes import Runtimes
from services.engines.wasm.store import FunctionStore, Kept
from services.errors import NotFound
from services.identity import hash_label
from services.manifests import Format, Manifest
from services.telemetry import Log

ENGINE_ID = "wasm"

GRACE_SECONDS = 10.0
"""For calls under way when a function is stopped or removed, unless it is said."""

_STOP_SECONDS = 2.0
"""For calls under way when the engine itself stops."""
_REAP_SECONDS = 5.0
_PRUNE_SECONDS = 3600.0
_THREADS = 4

T = TypeVar("T")

log = Log(__name__)


class WasmEngine(Engine):
    """Functions of one node; `directory` holds theirs, `runtimes` what they run on."""

    def __init__(
        self,
        *,
        node_id: str,
        directory: Path,
        runtimes: Runtimes,
        pool: Pool,
        limits: LiveLimits,
        code_roots: Sequence[Path],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.node_id = node_id
        self._store = FunctionStore(directory)
        self._runtimes = runtimes
        self._pool = pool
        self._limits = limits
        self._code_roots = code_roots
        self._clock = clock
        self._monotonic = monotonic
        self._info = _info()
        self._means = Means(
            store=self._store,
            write=self._write,
            runtimes=runtimes,
            pool=pool,
            limits=limits,
            tell=self.tell,
            clock=clock,
            monotonic=monotonic,
        )
        self._functions: dict[str, Deployed] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="wasm")
        self._group = asyncio.TaskGroup()
        self._loops: list[asyncio.Task[None]] = []
        self._tried: Health | None = None

    @property
    def info(self) -> Info:
        """Identity and capabilities."""
        return self._info

    async def __aenter__(self) -> Self:
        for kept in await self._in_thread(self._store.load):
            if kept.ownership.node_id == self.node_id:
                self._functions[kept.workload_id] = Deployed(kept, self._means)
        await self._pool.__aenter__()
        await self._runtimes.__aenter__()
        self._pool.evict = self._evict
        await self._group.__aenter__()
        self._loops = [self._group.create_task(self._reap()), self._group.create_task(self._prune())]
        for deployed in self._functions.values():
            await deployed.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await self._group.__aexit__(None, None, None)
        await asyncio.gather(*(deployed.close(_STOP_SECONDS) for deployed in self._functions.values()))
        await self._runtimes.__aexit__()
        await self._pool.__aexit__()
        self._threads.shutdown()

    # Health

    async def probe(self) -> Health:
        """Run a tiny guest in a worker process once; after that only say what is being built."""
        if self._tried is None or self._tried.state is not HealthState.HEALTHY:
            self._tried = await try_out(self._runtimes)
        if self._tried.state is not HealthState.HEALTHY:
            return self._tried
        attributes = {
            "backend_version": self._info.backend_version,
            "python_runtime": self._python_state(),
            "javascript_runtime": self._runtimes.javascript_state,
        }
        return replace(self._tried, attributes=attributes)

    def _python_state(self) -> str:
        if self._runtimes.progress:
            return self._runtimes.progress
        if self._runtimes.has_python:
            return "ready"
        return f"failed: {self._runtimes.failure}" if self._runtimes.failure else "built at first use"

    # The interface

    def check(self, manifest: Manifest, config: Config) -> Sequence[Issue]:
        """See `function.check`."""
        return function.check(manifest, config)

    async def prepare(self, spec: Spec) -> None:
        """The runtime and the code; a function without code does not cost the one that runs."""
        function.code_of(spec.manifest)
        wanted = function.read(spec.manifest, spec.config)
        if wanted.is_python:
            await self._runtimes.python(lambda text: self.tell(spec.workload_id, text))
        elif wanted.runtime == "javascript":
            await self._runtimes.javascript(lambda text: self.tell(spec.workload_id, text))

    async def create(self, spec: Spec) -> None:
        """Lay down its code, load it once, and answer its HTTP trigger."""
        given = function.code_of(spec.manifest)
        if spec.config.replicas == 0:
            return
        wanted = function.read(spec.manifest, spec.config)
        now, workload_id = self._clock(), spec.workload_id
        staged = await self._in_thread(lambda: self._store.stage(workload_id))
        try:
            laid = await self._in_thread(
                lambda: code.lay(
                    given,
                    staged,
                    handler=wanted.handler,
                    roots=self._code_roots,
                    suffix=".py" if wanted.is_python else ".js",
                )
            )
            kept = Kept(
                ownership=replace(spec.ownership, manifest_hash=hash_label(spec.ownership.manifest_hash)),
                spec=wanted,
                component_id=secrets.token_hex(16),
                create_time=now,
                start_time=now,
                wasm_sha256=laid.wasm_sha256,
                wasm_kind=laid.wasm_kind,
            )
            await self._in_thread(lambda: self._store.commit(staged, kept))
            deployed = self._functions[workload_id] = Deployed(kept, self._means)
            await deployed.warm()
            await deployed.answer_http()
        except BaseException:
            await self.destroy(workload_id, grace_seconds=0.0, force=True, remove_volumes=True)
            raise

    async def observe(self) -> Mapping[str, Observation]:
        """All of this node's."""
        for workload_id in [*self._functions]:
            if not self._store.is_there(workload_id):  # deleted behind our back
                await self._functions.pop(workload_id).close(0.0)
        return {workload_id: deployed.observation() for workload_id, deployed in self._functions.items()}

    async def destroy(
        self, workload_id: str, *, grace_seconds: float | None, force: bool, remove_volumes: bool
    ) -> None:
        """Let calls under way end, then delete all of it."""
        deployed = self._functions.get(workload_id)
        if deployed is not None:
            await deployed.close(0.0 if force else _grace(grace_seconds))
        await self._in_thread(lambda: self._store.delete(workload_id))
        self._functions.pop(workload_id, None)

    async def stop(self, workload_id: str, *, grace_seconds: float | None, signal: str = "") -> None:
        """Take no more calls; those under way may end within the grace period."""
        deployed = self._find(workload_id)
        await deployed.keep(replace(deployed.kept, stopped=True))
        await deployed.close(_grace(grace_seconds))

    async def start(self, workload_id: str) -> None:
        """Take calls again."""
        deployed = self._find(workload_id)
        if deployed.kept.stopped:
            await deployed.keep(replace(deployed.kept, stopped=False, start_time=self._clock()))
        await deployed.open()

    async def restart(self, workload_id: str, *, grace_seconds: float | None) -> None:
        """All instances end; calls make new ones."""
        deployed = self._find(workload_id)
        await deployed.close(_grace(grace_seconds))
        await deployed.keep(replace(deployed.kept, stopped=False, start_time=self._clock()))
        await deployed.open()

    def logs(self, workload_id: str, query: LogQuery) -> AsyncIterator[Sequence[LogLine]]:
        """What it wrote, and what the engine says of it."""
        deployed = self._find(workload_id)
        component = deployed.component()
        if query.component_id not in ("", component.component_id, component.display_name):
            raise NotFound(
                f"workload {workload_id} has no component {query.component_id[:80]!r}; it has {component.display_name}",
                reason="COMPONENT_NOT_FOUND",
                metadata={"workload_id": workload_id, "component_id": query.component_id[:80]},
            )
        return deployed.journal.read(query, alive=lambda: not deployed.kept.stopped)

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """What its instances use together; nothing while it is stopped."""
        deployed = self._find(workload_id)
        if deployed.kept.stopped:
            return []
        used = await usage.measure(deployed.live.pids if deployed.live else [])
        return [
            ComponentStats(
                component_id=deployed.kept.component_id,
                sample_time=self._clock(),
                cpu_cores=used.cpu_cores,
                memory_bytes=used.memory_bytes,
            )
        ]

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        """As it was asked for."""
        return export(spec, observation)

    async def invoke(self, workload_id: str, invocation: Invocation) -> Invoked:
        """Call the handler."""
        return await self._find(workload_id).invoke(invocation)

    # Inside

    def _find(self, workload_id: str) -> Deployed:
        deployed = self._functions.get(workload_id)
        if deployed is None:
            raise not_found(workload_id)
        return deployed

    async def _write(self, kept: Kept) -> None:
        await self._in_thread(lambda: self._store.write(kept))

    # Housekeeping

    async def _reap(self) -> None:
        """End instances that nobody calls; without any function in use there are no spare workers either."""
        while True:
            await asyncio.sleep(min(_REAP_SECONDS, self._limits.idle_seconds / 2))
            since = self._monotonic() - self._limits.idle_seconds
            for live in self._alive():
                await live.end_idle(since)
            if not any(live.pids for live in self._alive()):
                self._pool.keep_spares(False)

    async def _evict(self) -> bool:
        """End the instance that has been idle longest, whosever it is."""
        idle = [(since, live) for live in self._alive() if (since := live.oldest_idle) is not None]
        return await min(idle, key=lambda item: item[0])[1].evict_one() if idle else False

    def _alive(self) -> list[LiveFunction]:
        return [deployed.live for deployed in self._functions.values() if deployed.live is not None]

    async def _prune(self) -> None:
        while True:
            needed = {deployed.kept.wasm_sha256 for deployed in self._functions.values()}
            try:
                gone = await self._in_thread(functools.partial(self._runtimes.prune, needed))
            except OSError as error:
                log.warning("prune_failed", why=error)
            else:
                if gone:
                    log.info("cache_pruned", files=",".join(gone))
            await asyncio.sleep(_PRUNE_SECONDS)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _grace(seconds: float | None) -> float:
    return GRACE_SECONDS if seconds is None else seconds


def _info() -> Info:
    return Info(
        engine=ENGINE_ID,
        display_name="WebAssembly",
        engine_version=version("beemesh"),
        backend_version=_wasmtime_version(),
        api_version="wasi:cli/0.2",
        capabilities=frozenset(
            {
                Capability.LOGS,
                Capability.LOGS_FOLLOW,
                Capability.STATS,
                Capability.STOP_START,
                Capability.RESTART,
                Capability.EXPORT,
                Capability.INVOKE,
            }
        ),
        formats=frozenset({Format.FUNCTION}),
        kinds=("Function",),
    )


def _wasmtime_version() -> str:
    try:
        return version("wasmtime")
    except PackageNotFoundError:
        return ""
