"""What `-f` names: a file, a directory of manifests, or standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from services.cli.report import Failure
from services.identity import DEPLOYMENT_ID_MAX

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One manifest's text."""

    name: str
    """As errors name it."""
    folder: str
    """The name of the folder it lies in; of the working directory for standard input."""
    text: str


def read(paths: Iterable[str]) -> list[Source]:
    """Every manifest that the paths name, directories in name order; raises Failure with the path."""
    found: list[Source] = []
    for path in paths:
        if path == "-":
            found.append(_source("stdin", Path.cwd(), sys.stdin.buffer.read()))
        elif Path(path).is_dir():
            found += _directory(Path(path))
        else:
            found.append(_file(Path(path)))
    return found


def compose_id(folder: str) -> str:
    """The deployment id of a Compose file that has no name: its folder's, as Compose itself would call it."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")
    return f"compose-{name or 'project'}"[:DEPLOYMENT_ID_MAX].rstrip("-")


def _directory(path: Path) -> list[Source]:
    files = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES and item.is_file())
    if not files:
        raise Failure(f"{path}: no manifest in it ({', '.join(SUFFIXES)})")
    return [_file(item) for item in files]


def _file(path: Path) -> Source:
    try:
        return _source(str(path), path.absolute().parent, path.read_bytes())
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error


def _source(name: str, folder: Path, raw: bytes) -> Source:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Failure(f"{name}: not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise Failure(f"{name}: is empty")
    return Source(name=name, folder=folder.name, text=text)
