"""What functions run on is built once, for all who wait, and kept while it is needed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from services.engines.wasm import configuration, keys
from services.engines.wasm.runtimes import PRUNE_SECONDS, Runtimes, Say
from services.errors import FailedPrecondition, Internal
from tests.unit.engines_wasm.fakes import settled


class Builder:
    """Builds when it is let."""

    def __init__(self, *, code: int = 0) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.may_go_on = asyncio.Event()
        self.code = code

    async def run(self, cache: Path, arguments: tuple[str, ...], say: Say) -> tuple[int, str]:
        self.asked.append(arguments)
        say("building")
        await self.may_go_on.wait()
        if self.code:
            return self.code, "no room"
        path = keys.runner_artifact(cache)
        path.write_bytes(b"built")
        return 0, str(path)


async def test_all_who_want_it_share_one_build(tmp_path: Path) -> None:
    """Each hears how far it is; afterwards nothing is built again, until somebody deletes it."""
    builder, heard = Builder(), list[str]()
    async with Runtimes(tmp_path, run=builder.run) as runtimes:
        waiting = [asyncio.ensure_future(runtimes.python(heard.append)) for _ in range(3)]
        await settled()
        assert (builder.asked, runtimes.progress, len(heard)) == ([()], "building", 3)
        builder.may_go_on.set()
        assert len({await path for path in waiting}) == 1
        assert runtimes.progress == ""
        await runtimes.python(heard.append)
        assert len(builder.asked) == 1
        keys.runner_artifact(tmp_path).unlink()
        assert not runtimes.has_python
        await runtimes.python(heard.append)
        assert len(builder.asked) == 2


async def test_a_build_goes_on_when_who_asked_for_it_leaves(tmp_path: Path) -> None:
    """The next one finds it under way."""
    builder = Builder()
    async with Runtimes(tmp_path, run=builder.run) as runtimes:
        leaving = asyncio.ensure_future(runtimes.python(lambda _: None))
        await settled()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        later = asyncio.ensure_future(runtimes.python(lambda _: None))
        await settled()
        builder.may_go_on.set()
        assert (await later).read_bytes() == b"built"
        assert len(builder.asked) == 1


async def test_a_build_that_fails_says_why_and_is_tried_again(tmp_path: Path) -> None:
    """Of the runtime it is our failure, of a user's code it is theirs."""
    builder = Builder(code=1)
    builder.may_go_on.set()
    async with Runtimes(tmp_path, run=builder.run) as runtimes:
        with pytest.raises(Internal, match="no room"):
            await runtimes.python(lambda _: None)
        assert runtimes.failure == "no room"
        with pytest.raises(FailedPrecondition) as caught:
            await runtimes.user(tmp_path / "a.wasm", "0" * 64, lambda _: None)
        assert caught.value.reason == "CODE_INVALID"
        builder.code = 0
        await runtimes.python(lambda _: None)
        assert runtimes.failure == ""


def test_what_nobody_has_needed_for_long_is_pruned(tmp_path: Path) -> None:
    """Old code of removed functions goes; what is needed, recent or not ours stays."""
    needed, gone, recent = ("a" * 64, "b" * 64, "c" * 64)
    now = 10 * PRUNE_SECONDS
    for sha256, age in ((needed, 2.0), (gone, 2.0), (recent, 0.5)):
        path = keys.user_artifact(tmp_path, sha256)
        path.write_bytes(b"code")
        os.utime(path, (now - age * PRUNE_SECONDS,) * 2)
    for path in (keys.runner_artifact(tmp_path), tmp_path / "lock"):
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    assert Runtimes(tmp_path).prune({needed}, now=now) == [keys.user_artifact(tmp_path, gone).name]
    assert Runtimes(tmp_path / "nowhere").prune(set(), now=now) == []


def test_other_inputs_have_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is found again only under what it was compiled with."""
    before = keys.runner_artifact(tmp_path)
    assert keys.runner_artifact(tmp_path) == before
    monkeypatch.setattr(configuration, "STACK_BYTES", configuration.STACK_BYTES * 2)
    assert keys.runner_artifact(tmp_path) != before
    assert keys.user_artifact(tmp_path, "a" * 64) != keys.user_artifact(tmp_path, "b" * 64)
