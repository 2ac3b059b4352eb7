"""Compiled code for functions, made when it is first needed, by a process of its own, and kept in a cache."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from services.bound import bound
from services.engines.wasm import toolchain
from services.errors import FailedPrecondition, Internal
from services.telemetry import Log

MODULE = "services.engines.wasm.toolchain"

PRUNE_SECONDS = 7 * 86400.0
"""What no function has needed for so long is deleted."""

_ARTIFACT = "artifact "
_LINE_MAX = 2000

Say = Callable[[str], None]

log = Log(__name__)


class Runtimes:
    """The cache, and what is being built into it. One build at a time; who wants the same waits for it."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._building = asyncio.Lock()
        self._python: Path | None = None
        self.progress = ""
        """What is being built; empty: nothing."""
        self.failure = ""
        """Why the Python runtime could not be built the last time."""

    @property
    def has_python(self) -> bool:
        """Whether the Python runtime is built."""
        return self._known_python() is not None

    async def python(self, say: Say) -> Path:
        """The compiled Python runtime, built when it is not there; raises Internal(RUNTIME_NOT_BUILT)."""
        if found := self._known_python():
            return found
        async with self._building:
            if found := self._known_python():
                return found
            code, built = await self._run((), say)
            if code:
                self.failure = built
                raise Internal(f"the Python runtime cannot be built: {built}", reason="RUNTIME_NOT_BUILT")
            self.failure = ""
            self._python = Path(built)
        return self._python

    async def user(self, source: Path, sha256: str, say: Say) -> Path:
        """The compiled form of the WebAssembly in `source`; raises FailedPrecondition(CODE_INVALID)."""
        target = toolchain.user_artifact(self.cache, sha256)
        if target.exists():
            with suppress(OSError):
                target.touch()  # it is in use
            return target
        async with self._building:
            code, built = await self._run(("--source", str(source)), say)
        if code:
            raise FailedPrecondition(f"spec.code.wasm: {built}", reason="CODE_INVALID", metadata={"sha256": sha256})
        return Path(built)

    def prune(self, needed: Collection[str], *, now: float | None = None) -> list[str]:
        """Delete compiled code that no function needs (by sha256) and none has for a while; the files' names."""
        if not self.cache.is_dir():
            return []
        kept = {toolchain.user_artifact(self.cache, sha256) for sha256 in needed}
        with suppress(ImportError):
            kept |= {toolchain.runner_artifact(self.cache), self.cache / f"python-{toolchain.runner_key()}.wasm"}
        limit, gone = (time.time() if now is None else now) - PRUNE_SECONDS, []
        for path in sorted(self.cache.iterdir()):
            if path.suffix in (".cwasm", ".wasm", ".tmp") and path not in kept and path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
                gone.append(path.name)
        return gone

    def _known_python(self) -> Path | None:
        """Where it is; somebody may have deleted it."""
        artifact = self._python or toolchain.runner_artifact(self.cache)
        self._python = artifact if artifact.exists() else None
        return self._python

    async def _run(self, arguments: tuple[str, ...], say: Say) -> tuple[int, str]:
        """The toolchain's exit code, and the artifact's path or why there is none."""
        command = bound(sys.executable, "-P", "-m", MODULE, "--cache-dir", str(self.cache), *arguments)
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
            async with asyncio.timeout(toolchain.BUILD_SECONDS):
                assert process.stdout is not None  # noqa: S101 - it was asked for
                async for raw in process.stdout:
                    said.append(raw.decode(errors="replace").rstrip()[:_LINE_MAX])
                    if not said[-1].startswith(_ARTIFACT):
                        self._tell(said[-1], say)
                code = await process.wait()
        except TimeoutError:
            return 1, f"it took more than {toolchain.BUILD_SECONDS}s"
        finally:
            self.progress = ""
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        last = said[-1] if said else f"the toolchain ended with {code} and said nothing"
        return (0, last.removeprefix(_ARTIFACT)) if not code and last.startswith(_ARTIFACT) else (code or 1, last)

    def _tell(self, text: str, say: Say) -> None:
        self.progress = text
        say(text)
        log.info("toolchain", said=text)
