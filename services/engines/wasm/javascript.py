"""Where jco is, the npm package that builds the JavaScript runtime, and the node that runs it. Blocking, quick."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

INSTALL = "npm install --global @bytecodealliance/jco@1.35.0"
"""What a node that lacks them is told."""

_PACKAGES = ("@bytecodealliance/jco", "componentize-qjs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the runtime is built with."""

    node: Path
    jco: Path
    """The script, for node."""
    version: str
    """Of all that decides what is built."""


def find(modules: str, path: str) -> Tools | None:
    """The tools in the node_modules directory `modules`, or where it is empty by `path`; None: they are not there."""
    node = shutil.which("node", path=path)
    found = f"{modules}/.bin/jco" if modules else shutil.which("jco", path=path)
    if node is None or found is None or not Path(found).exists():
        return None
    script = Path(found).resolve()
    for root in script.parents:
        if root.name == "node_modules":
            try:
                versions = [_version(root, package) for package in _PACKAGES]
            except (OSError, ValueError, KeyError):
                return None
            return Tools(node=Path(node), jco=script, version="+".join(versions))
    return None


def _version(root: Path, package: str) -> str:
    """Of a package beside jco, or inside it where npm put it there."""
    for place in (root, root / _PACKAGES[0] / "node_modules"):
        file = place / package / "package.json"
        if file.exists():
            return str(json.loads(file.read_text())["version"])
    raise KeyError(package)
