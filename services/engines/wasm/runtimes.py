"""Compiled code for functions, made when it is first needed, by a process of its own, and kept in a cache."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.bound import bound
from services.engines.wasm import keys
from services.engines.wasm.javascript import INSTALL, Tools, find
from services.engines.wasm.toolchain import BUILD_SECONDS
from services.errors import FailedPrecondition, Internal
from services.telemetry import Log

MODULE = "services.engines.wasm.toolchain"

PRUNE_SECONDS = 7 * 86400.0
"""What no function has needed for so long is deleted."""

_ARTIFACT = "artifact "
_LINE_MAX = 2000

Say = Callable[[str], None]
Run = Callable[[Path, tuple[str, ...], Say], Awaitable[tuple[int, str]]]

log = Log(__name__)


@dataclass(slots=True, kw_only=True)
class _Build:
    """One build that is under way, and who hears of it."""

    task: asyncio.Task[tuple[int, str]]
    listeners: list[Say]


class Runtimes:
    """The cache, and what is being built into it, one at a time; `async with` ends what is under way.

    A build goes on when who asked for it leaves: the next one finds it further, or done.
    """

    def __init__(self, cache: Path, *, run: Run | None = None, node_modules: str = "", path: str | None = None) -> None:
        self.cache = cache
        self._node_modules = node_modules
        self._path = os.environ.get("PATH", "") if path is None else path
        self._run_toolchain = run or run_toolchain
        self._group = asyncio.TaskGroup()
        self._turn = asyncio.Lock()
        self._builds: dict[tuple[str, ...], _Build] = {}
        """By the toolchain's arguments."""
        self._python: Path | None = None
        self.progress = ""
        """What is being built; empty: nothing."""
        self.failure = ""
        """Why the Python runtime could not be built the last time."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for build in self._builds.values():
            build.task.cancel()
        await self._group.__aexit__(None, None, None)

    @property
    def has_python(self) -> bool:
        """Whether the Python runtime is built."""
        return self._known_python() is not None

    async def python(self, say: Say) -> Path:
        """The compiled Python runtime, built when it is not there; raises Internal(RUNTIME_NOT_BUILT)."""
        if found := self._known_python():
            return found
        code, built = await self._built((), say)
        self.failure = built if code else ""
        if code:
            raise Internal(f"the Python runtime cannot be built: {built}", reason="RUNTIME_NOT_BUILT")
        self._python = Path(built)
        return self._python

    @property
    def javascript_state(self) -> str:
        """Whether functions in JavaScript can run, as a person reads it."""
        if self._known_javascript() is not None:
            return "ready"
        return "built at first use" if self._tools() else f"not available: {INSTALL}"

    async def javascript(self, say: Say) -> Path:
        """The compiled JavaScript runtime; raises FailedPrecondition(RUNTIME_NOT_AVAILABLE), Internal."""
        if found := self._known_javascript():
            return found
        if self._tools() is None:
            message = f"runtime javascript is not available on this node; to build it takes: {INSTALL}"
            raise FailedPrecondition(message, reason="RUNTIME_NOT_AVAILABLE", metadata={"runtime": "javascript"})
        code, built = await self._built(("--javascript", self._node_modules, "--path", self._path), say)
        if code:
            raise Internal(f"the JavaScript runtime cannot be built: {built}", reason="RUNTIME_NOT_BUILT")
        return Path(built)

    async def user(self, source: Path, sha256: str, say: Say) -> Path:
        """The compiled form of the WebAssembly in `source`; raises FailedPrecondition(CODE_INVALID)."""
        target = keys.user_artifact(self.cache, sha256)
        if target.exists():
            with suppress(OSError):
                target.touch()  # it is in use
            return target
        code, built = await self._built(("--source", str(source)), say)
        if code:
            raise FailedPrecondition(f"spec.code.wasm: {built}", reason="CODE_INVALID", metadata={"sha256": sha256})
        return Path(built)

    def prune(self, needed: Collection[str], *, now: float | None = None) -> list[str]:
        """Delete compiled code that no function needs (by sha256) and none has for a while; the files' names."""
        if not self.cache.is_dir():
            return []
        kept = {keys.user_artifact(self.cache, sha256) for sha256 in needed}
        with suppress(ImportError):
            kept |= {keys.runner_artifact(self.cache), keys.runner_source(self.cache)}
            if found := self._known_javascript():
                kept.add(found)
        limit, gone = (time.time() if now is None else now) - PRUNE_SECONDS, []
        for path in sorted(self.cache.iterdir()):
            if path.suffix in (".cwasm", ".wasm", ".tmp") and path not in kept and path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
                gone.append(path.name)
        return gone

    def _known_python(self) -> Path | None:
        """Where it is; somebody may have deleted it."""
        artifact = self._python or keys.runner_artifact(self.cache)
        self._python = artifact if artifact.exists() else None
        return self._python

    def _tools(self) -> Tools | None:
        return find(self._node_modules, self._path)

    def _known_javascript(self) -> Path | None:
        tools = self._tools()
        artifact = keys.javascript_artifact(self.cache, tools.version if tools else None)
        return artifact if artifact is not None and artifact.exists() else None

    async def _built(self, arguments: tuple[str, ...], say: Say) -> tuple[int, str]:
        """The toolchain's exit code, and the artifact's path or why there is none."""
        build = self._builds.get(arguments)
        if build is None:
            task = self._group.create_task(self._run(arguments))
            build = self._builds[arguments] = _Build(task=task, listeners=[])
        build.listeners.append(say)
        if self.progress:
            say(self.progress)
        return await asyncio.shield(build.task)

    async def _run(self, arguments: tuple[str, ...]) -> tuple[int, str]:
        try:
            async with self._turn:
                return await self._run_toolchain(self.cache, arguments, lambda text: self._tell(text, arguments))
        except OSError as error:
            return 1, str(error)
        finally:
            self.progress = ""
            del self._builds[arguments]

    def _tell(self, text: str, arguments: tuple[str, ...]) -> None:
        self.progress = text
        log.info("toolchain", said=text)
        for say in self._builds[arguments].listeners:
            say(text)


async def run_toolchain(cache: Path, arguments: tuple[str, ...], say: Say) -> tuple[int, str]:
    """A build: its exit code, and the artifact's path or why there is none; raises OSError."""
    command = bound(sys.executable, "-P", "-m", MODULE, "--cache-dir", str(cache), *arguments)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={},
        start_new_session=True,
    )
    said: deque[str] = deque(maxlen=20)
    try:
        async with asyncio.timeout(BUILD_SECONDS):
            assert process.stdout is not None  # noqa: S101 - it was asked for
            async for raw in process.stdout:
                said.append(raw.decode(errors="replace").rstrip()[:_LINE_MAX])
                if not said[-1].startswith(_ARTIFACT):
                    say(said[-1])
            code = await process.wait()
    except TimeoutError:
        return 1, f"it took more than {BUILD_SECONDS}s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    last = said[-1] if said else f"the toolchain ended with {code} and said nothing"
    return (0, last.removeprefix(_ARTIFACT)) if not code and last.startswith(_ARTIFACT) else (code or 1, last)
