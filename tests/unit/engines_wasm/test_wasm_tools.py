"""Where the tools for JavaScript are found, and what is said where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.engines.wasm import keys
from services.engines.wasm.javascript import INSTALL, find
from services.engines.wasm.runtimes import Runtimes
from services.errors import FailedPrecondition


def installed(root: Path) -> Path:
    """A node_modules directory with jco in it, and a node beside."""
    for package in ("@bytecodealliance/jco", "componentize-qjs"):
        place = root / "node_modules" / package
        place.mkdir(parents=True)
        (place / "package.json").write_text(json.dumps({"version": f"1-{package[0]}"}))
    for program in (root / "node_modules/.bin/jco", root / "node"):
        program.parent.mkdir(exist_ok=True)
        program.touch(mode=0o755)
    return root / "node_modules"


def test_jco_is_found_where_the_setting_or_path_says(tmp_path: Path) -> None:
    """Its version is that of all that decides what is built; without node there is none."""
    modules = installed(tmp_path)
    by_setting = find(str(modules), str(tmp_path))
    assert by_setting is not None
    assert by_setting.version == "1-@+1-c"
    assert find("", f"{tmp_path}:{modules}/.bin") == by_setting
    assert find("", str(tmp_path)) is None
    assert find(str(modules), "/nowhere") is None


async def test_a_runtime_that_was_built_elsewhere_is_used_without_tools(tmp_path: Path) -> None:
    """Without tools and without it, the refusal says how to install them."""
    runtimes = Runtimes(tmp_path, path="/nowhere")
    assert runtimes.javascript_state == f"not available: {INSTALL}"
    with pytest.raises(FailedPrecondition, match="npm install") as caught:
        await runtimes.javascript(lambda _: None)
    assert caught.value.reason == "RUNTIME_NOT_AVAILABLE"
    artifact = keys.javascript_artifact(tmp_path, "1.35.0")
    assert artifact is not None
    artifact.touch()
    assert runtimes.javascript_state == "ready"
    assert await runtimes.javascript(lambda _: None) == artifact
