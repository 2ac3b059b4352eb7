"""`python -m services.engines.wasm.toolchain`: builds what functions run on, in a process of its own, into a cache.

It says on stdout, line by line, what it does; the last line is `artifact <path>`. Several processes that want the same
wait for each other. Failing it exits with 1, and the last line on stderr says why.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.bound import bound
from services.engines.wasm import javascript
from services.engines.wasm.keys import (
    GUEST,
    GUEST_JS,
    javascript_artifact,
    javascript_source,
    runner_artifact,
    runner_source,
    user_artifact,
)

APP = "beemesh_runner"
"""The module that componentize-py makes a component of; no function's own module may be called so."""
BUILD_SECONDS = 600
COMPILE_MEMORY = 4 << 30
"""Address space of a compilation of a user's code."""
COMPILE_CPU_SECONDS = 120

_MAGIC = b"\0asm"
_COMPONENT_LAYER = b"\x01\x00"


class NotBuilt(Exception):
    """It could not be built; the text says why."""


def kind_of(wasm: bytes) -> str:
    """`module` or `component`; raises ValueError for what is neither."""
    if wasm[:4] != _MAGIC or len(wasm) < 8:
        raise ValueError("it is no WebAssembly: it does not begin with \\0asm")
    return "component" if wasm[6:8] == _COMPONENT_LAYER else "module"


def build_runner(cache: Path, say: Callable[[str], None]) -> Path:
    """The compiled Python runner, built if it is not there yet; raises NotBuilt."""
    target = runner_artifact(cache)
    with _alone(cache, say):
        if target.exists():
            return target
        wasm = runner_source(cache)
        if not wasm.exists():
            say("building the Python runtime")
            _componentize(wasm)
        say("compiling the Python runtime for this machine")
        _compile(wasm.read_bytes(), "component", target)
    return target


def build_javascript(cache: Path, tools: javascript.Tools, say: Callable[[str], None]) -> Path:
    """The same for JavaScript."""
    target, wasm = javascript_artifact(cache, tools.version), javascript_source(cache, tools.version)
    if target is None:
        raise NotBuilt("the JavaScript runtime has no name")
    with _alone(cache, say):
        if target.exists():
            return target
        if not wasm.exists():
            say("building the JavaScript runtime")
            _componentize_javascript(tools, wasm)
        say("compiling the JavaScript runtime for this machine")
        _compile(wasm.read_bytes(), "component", target, has_promises=True)
    return target


def compile_user(cache: Path, source: Path, say: Callable[[str], None]) -> Path:
    """The compiled form of the user's code in `source`; raises NotBuilt."""
    wasm = source.read_bytes()
    target = user_artifact(cache, hashlib.sha256(wasm).hexdigest())
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not target.exists():
        say("compiling the code for this machine")
        _confine()
        try:
            _compile(wasm, kind_of(wasm), target)
        except ValueError as error:
            raise NotBuilt(str(error)) from error
    return target


def _componentize(target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with tempfile.TemporaryDirectory(prefix="beemesh-guest-") as directory:  # the guest writes beside its sources
        guest = shutil.copytree(GUEST, Path(directory, "guest"))
        arguments = ["-q", "-d", str(guest / "world.wit"), "-w", "runner"]
        arguments += ["componentize", APP, "-p", str(guest), "-o", str(temporary)]
        command = bound(sys.executable, "-c", "from componentize_py import script; script()", *arguments)
        try:
            done = subprocess.run(command, capture_output=True, timeout=BUILD_SECONDS, check=False, env={})
            if done.returncode:
                raise NotBuilt(f"componentize-py: {done.stderr.decode(errors='replace').strip()[-2000:]}")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _componentize_javascript(tools: javascript.Tools, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    arguments = [str(tools.jco), "componentize", str(GUEST_JS / "runner.js"), "--wit", str(GUEST_JS / "world.wit")]
    arguments += ["--world-name", "runner", "--backend", "quickjs", "--out", str(temporary)]
    command = bound(str(tools.node), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, timeout=BUILD_SECONDS, check=False, env={})
        if done.returncode:
            raise NotBuilt(f"jco: {(done.stderr + done.stdout).decode(errors='replace').strip()[-2000:]}")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _compile(wasm: bytes, kind: str, target: Path, *, has_promises: bool = False) -> None:
    import wasmtime
    from wasmtime import component

    from services.engines.wasm.machine import make_engine

    engine = make_engine(has_promises=has_promises)
    try:
        compiled = component.Component(engine, wasm) if kind == "component" else wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError as error:
        raise NotBuilt(f"it is no valid WebAssembly {kind}: {error}") from error
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(compiled.serialize())
        temporary.chmod(0o600)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _confine() -> None:
    """Code that was made to be hard to compile costs no more than this."""
    resource.setrlimit(resource.RLIMIT_AS, (COMPILE_MEMORY, COMPILE_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (COMPILE_CPU_SECONDS, COMPILE_CPU_SECONDS))


@contextmanager
def _alone(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One builder at a time."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(cache / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that builds the same")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="Builds the Python runtime of functions, or compiles a user's code.")
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--source", type=Path, help="a WebAssembly file to compile; without it the Python runtime")
    parser.add_argument("--javascript", metavar="NODE_MODULES", help="the JavaScript runtime; empty: by jco on PATH")
    parser.add_argument("--path", default=os.environ.get("PATH", ""), help="where node and jco are searched")
    given = parser.parse_args()
    os.umask(0o077)
    began = time.monotonic()
    say = _say
    try:
        if given.source:
            artifact = compile_user(given.cache_dir, given.source, say)
        elif given.javascript is not None:
            tools = javascript.find(given.javascript, given.path)
            if tools is None:
                raise NotBuilt(f"jco is not here: {javascript.INSTALL}")
            artifact = build_javascript(given.cache_dir, tools, say)
        else:
            artifact = build_runner(given.cache_dir, say)
    except (NotBuilt, OSError, subprocess.TimeoutExpired, MemoryError) as error:
        sys.stderr.write(f"{error or type(error).__name__}\n")
        return 1
    say(f"done in {time.monotonic() - began:.1f}s")
    say(f"artifact {artifact}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
