"""Programs are bounded in time and output, and nothing of them is left; Compose is found, and judged by its version."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from services.engines.compose.binary import Finder, Places, parse_version
from services.engines.compose.process import Command, run
from services.errors import BeemeshError, DeadlineExceeded, FailedPrecondition, Internal

SHELL = shutil.which("sh") or "/bin/sh"


def command(script: str, directory: Path, *, stdin: bytes = b"", timeout: float = 20.0, max_out: int = 1000) -> Command:
    """`sh -c script`, in an environment of one variable."""
    return Command(
        argv=[SHELL, "-c", script],
        env={"ONLY": "this", "PATH": os.environ["PATH"]},
        workdir=directory,
        stdin=stdin,
        timeout=timeout,
        max_out=max_out,
    )


async def test_a_program_reads_writes_and_ends(tmp_path: Path) -> None:
    """Its input, output and exit code; each line of stderr as it comes; an environment of what was given, no more."""
    heard: list[str] = []
    script = "cat; echo one >&2; printf two >&2; echo $ONLY-$HOME; exit 3"
    done = await run(command(script, tmp_path, stdin=b"in\n"), heard.append)
    assert (done.code, done.out, done.err, heard) == (3, b"in\nthis-\n", ("one", "two"), ["one", "two"])


async def test_a_program_need_not_read_what_it_is_given(tmp_path: Path) -> None:
    """It ends as it ends."""
    assert (await run(command("exit 0", tmp_path, stdin=b"x" * (1 << 20)))).code == 0


async def test_too_much_output_is_refused(tmp_path: Path) -> None:
    """Though the program was let run to its end."""
    with pytest.raises(Internal, match="more than 1000 bytes"):
        await run(command("head -c 1001 /dev/zero; touch ended", tmp_path))
    assert (tmp_path / "ended").exists()


async def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    """DEADLINE_EXCEEDED, and its whole process group is gone, deaf children included."""
    script = f"(trap '' TERM; echo $$ >{tmp_path}/pid; exec sleep 100) & wait"
    with pytest.raises(DeadlineExceeded):
        await run(command(script, tmp_path, timeout=2.0))
    await _until_gone(tmp_path)


async def test_a_caller_who_leaves_takes_the_program_along(tmp_path: Path) -> None:
    """Cancelling waits until it is gone."""
    begun = asyncio.Event()
    script = f"echo $$ >{tmp_path}/pid; echo begun >&2; sleep 100"
    running = asyncio.create_task(run(command(script, tmp_path), lambda _: begun.set()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await _until_gone(tmp_path)


async def _until_gone(directory: Path) -> None:
    """Return when the kernel has carried out what KILL has ordered."""
    async with asyncio.timeout(20):
        while not _group_is_gone(directory):
            await asyncio.sleep(0)


def _group_is_gone(directory: Path) -> bool:
    """Whether nothing but zombies is left of the process whose pid is noted, and of its group."""
    group = int((directory / "pid").read_text())
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            return False
    return True


def compose(directory: Path, version: str, name: str = "docker-compose") -> Path:
    """A program that says it is Compose."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    program.write_text(f"#!{SHELL}\n{version}\n")
    program.chmod(0o755)
    return program


async def test_compose_is_found_where_docker_path_or_pip_puts_it(tmp_path: Path) -> None:
    """The plugin first, then PATH, then beside Python; one that is named, nowhere else; an old one is passed over."""
    plugin, path, beside = tmp_path / "plugins", tmp_path / "path", tmp_path / "beside"
    places = Places(search_path=str(path), plugin_directories=(str(plugin),), beside=beside)
    with pytest.raises(FailedPrecondition) as caught:
        await Finder(places, workdir=tmp_path).find()
    assert (caught.value.reason, "apt-get install" in caught.value.message) == ("COMPOSE_MISSING", True)
    compose(beside, "echo 5.6.1")
    assert (await Finder(places, workdir=tmp_path).find()).version == "5.6.1"
    compose(path, "echo v2.29.0")
    assert (await Finder(places, workdir=tmp_path).find()).version == "v2.29.0"
    compose(plugin, "echo 1.29.2")
    assert (await Finder(places, workdir=tmp_path).find()).version == "v2.29.0"
    named = Places(named=str(compose(tmp_path, "echo 2.0.0", "mine")), search_path=str(path))
    assert (await Finder(named, workdir=tmp_path).find()).path == tmp_path / "mine"


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 1.29.2", "COMPOSE_TOO_OLD"), ("echo hello", "COMPOSE_BROKEN"), ("exit 1", "COMPOSE_BROKEN")],
)
async def test_a_compose_that_cannot_be_used_says_why(tmp_path: Path, script: str, reason: str) -> None:
    """With the line that installs another."""
    with pytest.raises(BeemeshError) as caught:
        await Finder(Places(named=str(compose(tmp_path, script))), workdir=tmp_path).find()
    assert (caught.value.reason, "pip install" in caught.value.message) == (reason, True)


async def test_a_compose_that_was_replaced_is_asked_anew(tmp_path: Path) -> None:
    """And only then: each question is a process."""
    finder = Finder(Places(named=str(tmp_path / "docker-compose")), workdir=tmp_path)
    compose(tmp_path, "echo x >>asked; echo 2.1.0")
    versions = [(await finder.find()).version for _ in range(3)]
    assert (versions, (tmp_path / "asked").read_text()) == (["2.1.0"] * 3, "x\n")
    compose(tmp_path, "echo x >>asked; echo 2.20.0")
    assert (await finder.find()).version == "2.20.0"


@pytest.mark.parametrize(
    ("text", "numbers"), [("v2.29.1", (2, 29, 1)), ("5.6.1-desktop.1", (5, 6, 1)), ("2.0", (2, 0)), ("dev", ())]
)
def test_a_version_is_its_numbers(text: str, numbers: tuple[int, ...]) -> None:
    """Whatever stands around them."""
    assert parse_version(text) == numbers
