"""The engine's durable records."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engines.engine import Config, Resources
from services.engines.records import Phase, Record, Records, Removal
from services.errors import DataLoss, Internal, ResourceExhausted
from services.manifests import Format

RECORD = Record(
    node_id="a" * 40,
    workload_id="beemesh-web-12345678",
    manifest_id="web",
    manifest="# odd \ttext\r\nkind: Pod\u00a0…\n\n",
    format=Format.KUBERNETES,
    content_digest="sha256:1",
    manifest_digest="sha256:2",
    config=Config(replicas=0, resources=Resources(cpu_cores=0.1, memory_bytes=5), env={"A": "b=c"}, labels={"x": ""}),
    canonical_digest="sha256:3",
    generation=7,
    phase=Phase.REMOVING,
    create_time=1.25,
    update_time=2.5,
    request_id="r-1",
    removal=Removal(grace_seconds=1.5, force=True, remove_volumes=True),
)


def loaded(directory: Path) -> Records:
    """As after a restart."""
    records = Records(directory)
    records.load()
    return records


async def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """All fields survive a restart, the text to the byte."""
    await loaded(tmp_path).write(RECORD)
    assert loaded(tmp_path).get(RECORD.workload_id) == RECORD


@settings(deadline=None)  # how long a disk takes is not what is proved
@given(text=st.text(), env=st.dictionaries(st.text(), st.text()), cpu=st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_comes_back(
    text: str, env: dict[str, str], cpu: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a manifest or an environment says, it comes back the same."""
    if any("\ud800" <= character <= "\udfff" for character in text + "".join([*env, *env.values()])):
        return  # no UTF-8 text has these, and only UTF-8 text reaches a record
    directory = tmp_path_factory.mktemp("records")
    record = replace(RECORD, manifest=text, config=Config(env=env, resources=Resources(cpu_cores=cpu)))
    asyncio.run(loaded(directory).write(record))
    assert loaded(directory).get(record.workload_id) == record


async def test_only_their_user_can_read_the_files(tmp_path: Path) -> None:
    """The directory is 0700 and the files are 0600, whatever the umask."""
    before = os.umask(0)
    try:
        await loaded(tmp_path / "records").write(RECORD)
    finally:
        os.umask(before)
    (file,) = (tmp_path / "records").iterdir()
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_dropped_record_is_gone_after_a_restart(tmp_path: Path) -> None:
    """Dropping deletes the file; dropping again is harmless."""
    records = loaded(tmp_path)
    await records.write(RECORD)
    await records.drop(RECORD.workload_id)
    await records.drop(RECORD.workload_id)
    assert records.get(RECORD.workload_id) is None
    assert loaded(tmp_path).all() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_is_resource_exhausted_and_changes_nothing(tmp_path: Path, number: int) -> None:
    """A write that finds no room raises DISK_FULL, and the record stays as it was."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    await loaded(tmp_path).write(RECORD)
    records = Records(tmp_path, write=full)
    records.load()
    with pytest.raises(ResourceExhausted) as caught:
        await records.write(replace(RECORD, generation=8))
    assert caught.value.reason == "DISK_FULL"
    assert records.get(RECORD.workload_id) == RECORD


async def test_any_other_failed_write_says_so(tmp_path: Path) -> None:
    """A directory that vanished is an error that names the file."""
    records = loaded(tmp_path / "records")
    (tmp_path / "records").rmdir()
    with pytest.raises(Internal, match="records/beemesh-web") as caught:
        await records.write(RECORD)
    assert caught.value.reason == "RECORD_NOT_WRITTEN"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"workload_id": "beemesh-web-12345678"}', b'{"workload_id": 5}', b"[]"],
)
async def test_an_unreadable_record_costs_its_own_workload_only(tmp_path: Path, content: bytes) -> None:
    """It is reported by name, never deleted or overwritten, and the others are read."""
    await loaded(tmp_path).write(replace(RECORD, workload_id="beemesh-other-1"))
    broken = tmp_path / f"{RECORD.workload_id}.json"
    broken.write_bytes(content)
    records = loaded(tmp_path)
    assert [record.workload_id for record in records.all()] == ["beemesh-other-1"]
    assert str(broken) in records.unreadable[RECORD.workload_id]
    with pytest.raises(DataLoss, match=str(broken)):
        records.get(RECORD.workload_id)
    with pytest.raises(DataLoss):
        await records.write(RECORD)
    await records.drop(RECORD.workload_id)
    assert broken.read_bytes() == content


async def test_a_record_under_another_name_is_unreadable(tmp_path: Path) -> None:
    """A copied file does not become a second workload."""
    await loaded(tmp_path).write(RECORD)
    (tmp_path / f"{RECORD.workload_id}.json").rename(tmp_path / "beemesh-copy-1.json")
    assert "it is the record of beemesh-web-12345678" in loaded(tmp_path).unreadable["beemesh-copy-1"]


async def test_what_a_crash_left_half_written_is_no_record(tmp_path: Path) -> None:
    """A temporary file of an interrupted write is cleared away; the record before it counts."""
    await loaded(tmp_path).write(RECORD)
    half = tmp_path / f".{RECORD.workload_id}.json.tmp"
    half.write_bytes(b'{"half')
    assert loaded(tmp_path).get(RECORD.workload_id) == RECORD
    assert not half.exists()


async def test_only_what_was_not_stopped_may_be_started_again(tmp_path: Path) -> None:
    """What is stopped, being stopped or removed stays down, as does what cannot be read; nothing is known before."""
    expected = {phase: phase not in (Phase.STOPPING, Phase.STOPPED, Phase.REMOVING) for phase in Phase}
    kept = loaded(tmp_path)
    for phase in Phase:
        await kept.write(replace(RECORD, workload_id=f"beemesh-{phase.lower()}", phase=phase))
    (tmp_path / "beemesh-damaged.json").write_text("{")
    fresh = Records(tmp_path)
    assert not any(fresh.may_run(f"beemesh-{phase.lower()}") for phase in Phase)
    fresh.load()
    assert {phase: fresh.may_run(f"beemesh-{phase.lower()}") for phase in Phase} == expected
    assert fresh.may_run("beemesh-damaged") is False
    assert fresh.may_run("beemesh-unrecorded") is True
