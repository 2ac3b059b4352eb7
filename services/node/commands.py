"""`beemesh-node backup FILE` and `beemesh-node restore FILE`: what an operator does to a node's data by hand."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.errors import BeemeshError
from services.node.backup import backup
from services.node.restore import restore
from services.node.settings import Settings
from services.rpc.process import give_up
from services.settings import load

COMMANDS = ("backup", "restore")


def main(program: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Do what `argv` says, `argv[0]` being one of COMMANDS; exits with the code of a failed start when it cannot."""
    parser = argparse.ArgumentParser(
        prog=program, epilog="The settings of a node hold here too: --data-dir, BEEMESH_DATA_DIR, --config."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    saving = commands.add_parser("backup", help="save what the node knows, its private key included; it may run")
    saving.add_argument("file", type=Path, help="the file to write (0600); it must not be there")
    restoring = commands.add_parser("restore", help="bring a backup back; the node must not run")
    restoring.add_argument("file", type=Path, help="the backup")
    restoring.add_argument("--force", action="store_true", help="also into a directory that is not empty")
    asked, rest = parser.parse_known_args(argv)
    settings = load(Settings, program=program, argv=rest, env=env)
    data_dir, file = settings.data_dir.absolute(), asked.file.absolute()
    try:
        text = _backup(data_dir, file) if asked.command == "backup" else _restore(file, data_dir, force=asked.force)
    except BeemeshError as error:
        give_up(program, error)
    sys.stdout.write(text)


def _backup(data_dir: Path, file: Path) -> str:
    saved = backup(data_dir, file, release=_release(), time=_now().isoformat(timespec="seconds"))
    return (
        f"saved node {saved.node_id}: {saved.files} files, {saved.size} bytes, in {file}\n"
        "It holds the node's private key: who has the file can be this node.\n"
    )


def _restore(file: Path, data_dir: Path, *, force: bool) -> str:
    done = restore(file, data_dir, force=force, stamp=_now().strftime("%Y%m%dT%H%M%SZ"))
    text = f"restored node {done.header.node_id} as of {done.header.time} to {data_dir}\n"
    if done.kept:
        text += f"kept {len(done.kept)} records of engines that were there: they say what runs\n"
    if done.set_aside is not None:
        text += f"what was there before is in {done.set_aside}\n"
    return text


def _now() -> datetime:
    return datetime.now(UTC)


def _release() -> str:
    try:
        return importlib.metadata.version("beemesh")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
