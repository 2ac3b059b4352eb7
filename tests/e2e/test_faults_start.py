"""Data that cannot be used when a service starts: one line names it and says what to do, and the exit code fits."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scripts.local_node import REPOSITORY, LocalNode
from services.orchestrator.store import SCHEMA as ORCHESTRATOR_SCHEMA
from services.orchestrator.store import Store
from services.provider.journal import Journal
from tests.e2e.test_node_process import until
from tests.harness.disk import small_disk
from tests.harness.processes import short_directory

EX_CONFIG = 78
NODE_ID = "a" * 40
SERVICES = ("registry", "provider", "engines.mock", "orchestrator")
DATABASES = ("provider", "orchestrator")


def service(name: str, home: Path, **more: str) -> tuple[str, ...]:
    """The command of one service with its data in `home / data`; nobody else is there, or needed to start."""
    arguments = {"listen": f"unix:{home}/s.sock", "data_dir": f"{home}/data"}
    if name == "provider":
        arguments["dht_listen"] = "127.0.0.1:0"
    if name == "engines.mock":
        arguments["node_id"] = NODE_ID
    if name == "orchestrator":
        arguments |= {"public": "127.0.0.1:0", "token_file": f"{home}/token"}
        arguments |= {"registry": f"unix:{home}/r.sock", "provider": f"unix:{home}/p.sock"}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in (arguments | more).items()]
    return (sys.executable, "-m", f"services.{name}", *flags)


def ended(*command: str) -> tuple[int, str]:
    """Run to the end; the exit code, and what was meant for a reader: one line of each program that gave up."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("BEEMESH_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, "\n".join(line for line in done.stderr.splitlines() if line.startswith("beemesh-"))


@pytest.fixture
def home() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


def make(name: str, data: Path) -> Path:
    """The database of a service that ran before, with something in it."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data / f"{name}.db"
    if name == "provider":
        Journal.open(path).close()
        return path
    (data / "node_id").write_text(NODE_ID)

    async def fill() -> None:
        async with Store(path) as store:
            await store.commit(("INSERT INTO events VALUES (1, 'web', zeroblob(60000))", ()))

    asyncio.run(fill())
    return path


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be taken for the header of one" * 50)


def _garbage_in_the_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5000)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("spoil", [_not_a_database, _garbage_in_the_middle, _truncated, _empty])
def test_a_damaged_database_of_the_orchestrator_is_refused(home: Path, spoil: Callable[[Path], None]) -> None:
    """Garbage, a cut-off or an empty file ends the start with 78; the file is named and left as it is."""
    path = make("orchestrator", home / "data")
    spoil(path)
    before = path.read_bytes()
    code, line = ended(*service("orchestrator", home))
    assert code == EX_CONFIG
    assert line.startswith(f"beemesh-orchestrator: {path} is damaged: ")
    assert "Restore a backup (beemesh-node restore), or move the file away: the node then begins without" in line
    assert line.endswith("(DATABASE_CORRUPT)")
    assert "\n" not in line
    assert path.read_bytes() == before


def test_a_damaged_database_of_the_provider_is_refused(home: Path) -> None:
    """The provider's too."""
    path = make("provider", home / "data")
    _empty(path)
    code, line = ended(*service("provider", home))
    assert (code, line.endswith("(DATABASE_CORRUPT)"), str(path) in line) == (EX_CONFIG, True, True)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("name", DATABASES)
def test_a_newer_schema_ends_the_start_by_name(home: Path, name: str) -> None:
    """A database of a later release ends the start with 78, both versions and what to do."""
    path = make(name, home / "data")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    code, line = ended(*service(name, home))
    assert code == EX_CONFIG
    assert f"{path} has schema version 99, this release knows up to {ORCHESTRATOR_SCHEMA.version}" in line
    assert "start the newer release" in line


def test_a_node_with_damaged_data_ends_and_says_whose(home: Path) -> None:
    """A whole node ends with 78, after the service's own line and one that names the service."""
    path = make("orchestrator", home / "data" / "orchestrator")
    _empty(path)
    (home / "data").chmod(0o700)
    directories = ("--data-dir", str(home / "data"), "--run-dir", str(home / "run"))
    ports = ("--public", "127.0.0.1:0", "--dht-listen", "127.0.0.1:0")
    code, lines = ended(sys.executable, "-m", "services.node", *directories, "--engines", "", *ports)
    assert code == EX_CONFIG
    why, who = lines.splitlines()
    assert why.startswith(f"beemesh-orchestrator: {path} is damaged: it is empty")
    assert who.startswith("beemesh-node: orchestrator cannot start as it is set up; it said why above")


@pytest.mark.parametrize("name", SERVICES)
def test_a_read_only_data_directory_ends_the_start_by_name(home: Path, name: str) -> None:
    """On a disk that is mounted read-only each service ends with 78 and names its directory."""
    with small_disk(home / "data") as disk:
        disk.read_only(True)
        code, line = ended(*service(name, home))
    assert code == EX_CONFIG
    assert f"{home}/data cannot be written: Read-only file system; mount its disk for writing" in line
    assert line.endswith("(DATA_DIR_READ_ONLY)")


@pytest.mark.parametrize("name", DATABASES)
def test_a_full_data_directory_ends_the_start_to_be_tried_again(home: Path, name: str) -> None:
    """Without room a service ends with 1, which a supervisor tries again, and names its directory."""
    with small_disk(home / "data") as disk:
        make(name, disk.directory)
        disk.fill()
        code, line = ended(*service(name, home))
    assert (code, line.endswith("(DISK_FULL)"), f"{home}/data" in line) == (1, True, True)


def test_a_node_waits_for_room(start_node: Callable[..., LocalNode]) -> None:
    """A node whose orchestrator finds no room says so and tries on; once there is room it is ready."""
    node = start_node("")
    node.stop()
    directory = node.data_dir / "orchestrator"
    directory.rename(node.data_dir / "was")
    with small_disk(directory) as disk:
        shutil.copytree(node.data_dir / "was", directory, dirs_exist_ok=True)
        disk.fill()
        node.launch()
        until(lambda: "(DISK_FULL)" in node.log.read_text() and "service_ended" in node.log.read_text())
        disk.free()
        node.await_ready()
        node.stop()
