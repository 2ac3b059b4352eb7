"""The names of what is built: other inputs have other names. Nothing heavy is imported for them."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

from services.engines.wasm import configuration

GUEST = Path(__file__).parent / "guest"

GUEST_JS = Path(__file__).parent / "guest_js"

_SOURCES = (".py", ".txt", ".wit")


def runner_key() -> str:
    """Names the Python runner: another builder or other sources make another. Raises PackageNotFoundError."""
    parts = [version("componentize-py").encode()]
    parts += [path.read_bytes() for path in sorted(GUEST.iterdir()) if path.suffix in _SOURCES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compiled_key() -> str:
    """Names all that compiled code depends on: wasmtime, its configuration, the processor."""
    parts = (
        version("wasmtime"),
        platform.machine(),
        _processor(),
        f"stack={configuration.STACK_BYTES},opt={configuration.OPTIMIZE}",
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def runner_artifact(cache: Path) -> Path:
    """Where the compiled Python runner is, once it is built."""
    return cache / f"python-{runner_key()}-{compiled_key()}.cwasm"


def runner_source(cache: Path) -> Path:
    """Where the Python runner is before it is compiled for this machine."""
    return cache / f"python-{runner_key()}.wasm"


def javascript_source(cache: Path, tools: str) -> Path:
    """Where the JavaScript runner that those tools make is, before it is compiled for this machine."""
    return cache / f"javascript-{_javascript_key()}-{hashlib.sha256(tools.encode()).hexdigest()[:16]}.wasm"


def javascript_artifact(cache: Path, tools: str | None) -> Path | None:
    """Where the compiled one is, once it is built; without tools (None) one that some tools built, if there is one."""
    if tools is not None:
        return javascript_source(cache, tools).with_suffix(f".{compiled_key()}.cwasm")
    built = cache.glob(f"javascript-{_javascript_key()}-*.{compiled_key()}.cwasm")
    return min(built, default=None)


def _javascript_key() -> str:
    parts = [path.read_bytes() for path in sorted(GUEST_JS.iterdir()) if path.suffix in (".js", ".wit")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def user_artifact(cache: Path, sha256: str) -> Path:
    """Where a user's module or component is, once it is compiled."""
    return cache / f"user-{sha256[:32]}-{compiled_key()}.cwasm"


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's features: compiled code uses what the machine that compiled it had."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
