"""The cache of compiled code, on a machine where nothing was built yet."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from services.engines.wasm.canary import WASM


def test_the_first_code_makes_the_cache(tmp_path: Path) -> None:
    """The health probe's trial function is compiled where no Python runtime has been, into a directory made 0700."""
    source, cache = tmp_path / "code.wasm", tmp_path / "new/cache"
    source.write_bytes(WASM)
    command = [sys.executable, "-m", "services.engines.wasm.toolchain", "--cache-dir", str(cache), "--source", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    artifact = Path(done.stdout.splitlines()[-1].removeprefix("artifact "))
    assert artifact.parent == cache
    assert artifact.is_file()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
