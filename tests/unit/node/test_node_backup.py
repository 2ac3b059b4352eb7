"""A backup holds what a node knows, and is believed only as a whole; a restore changes nothing before it is sure."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from itertools import count
from pathlib import Path

import pytest

from services.data_dir import NODE_LOCK, claimed
from services.data_dir.schemas import VERSIONS
from services.errors import BeemeshError, DataLoss, FailedPrecondition
from services.node.backup import backup
from services.node.restore import Restored, check_whole, restore
from services.orchestrator.store import SCHEMA as ORCHESTRATOR
from services.orchestrator.store import Announcement, Store, put_announcement
from services.provider import node_key
from services.provider.journal import SCHEMA as PROVIDER
from services.provider.journal import Journal

RECORD = "engine-podman/workloads/beemesh-web-12345678.json"


def note(data: Path, path: str, text: str) -> None:
    """One file of a node."""
    (data / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data / path).write_text(text)


def announced(data: Path, *names: str) -> None:
    """The orchestrator's database, with these wishes in it."""

    async def write() -> None:
        async with Store(data / "orchestrator" / "orchestrator.db") as store:
            for name in names:
                await store.commit(put_announcement(Announcement(deployment_id=name, wanted=True, done=True)))

    (data / "orchestrator").mkdir(mode=0o700, exist_ok=True)
    asyncio.run(write())


def wishes(data: Path) -> set[str]:
    with closing(sqlite3.connect(data / "orchestrator" / "orchestrator.db")) as connection:
        return {name for (name,) in connection.execute("SELECT deployment_id FROM announcements")}


def make_node(data: Path) -> str:
    """The data directory of a node that ran; its id."""
    data.mkdir(mode=0o700)
    (data / "provider").mkdir(mode=0o700)
    node_id = node_key.load_or_create(data / "provider").node_id
    journal = Journal.open(data / "provider" / "provider.db")
    journal.claim(node_id)
    journal.close()
    announced(data, "web")
    note(data, "registry/choices.json", '{"default_engine": "podman"}')
    note(data, RECORD, json.dumps({"node_id": node_id, "workload_id": "beemesh-web-12345678", "phase": "OLD"}))
    note(data, "engine-podman/containers.conf", "written at each start")
    note(data, "engine-mock/backend/x.json", "a backend's own")
    note(data, "provider/lock", "")
    return node_id


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_node(tmp_path / "data")
    return tmp_path / "data"


def saved(data: Path, name: str = "saved.tgz") -> Path:
    """A backup of it."""
    backup(data, data.parent / name, release="1.2", time="2026-01-02T03:04:05+00:00")
    return data.parent / name


def restored(archive: Path, data: Path, *, force: bool = False) -> Restored:
    return restore(archive, data, force=force, stamp="now")


def files(data: Path) -> set[str]:
    """All files below."""
    return {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}


KEPT = {
    "provider/node.key",
    "provider/provider.db",
    "registry/choices.json",
    "orchestrator/orchestrator.db",
    RECORD,
}


def test_what_a_node_knows_comes_back(data: Path, tmp_path: Path) -> None:
    """Key, databases, choices and records are there again, closed to others; what backends own and locks are not."""
    done = restored(saved(data), tmp_path / "new")
    assert files(tmp_path / "new") == {*KEPT, NODE_LOCK}
    for path in KEPT - set(VERSIONS):
        assert (tmp_path / "new" / path).read_bytes() == (data / path).read_bytes()
    assert wishes(tmp_path / "new") == {"web"}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*") if path.is_dir()} == {0o700}
    assert node_key.load_or_create(tmp_path / "new" / "provider", may_create=False).node_id == done.header.node_id
    assert (done.header.release, done.header.time, done.set_aside) == ("1.2", "2026-01-02T03:04:05+00:00", None)
    check_whole(tmp_path / "new")


def test_a_backup_is_of_one_moment_while_the_node_writes(data: Path, tmp_path: Path) -> None:
    """What is committed is in it, also where it is not yet in the database's own file; what is not committed is not."""
    with closing(sqlite3.connect(data / "orchestrator" / "orchestrator.db", isolation_level=None)) as writer:
        writer.execute("INSERT INTO announcements VALUES ('committed', 1, 1)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO announcements VALUES ('open', 1, 1)")
        archive = saved(data)
        writer.execute("COMMIT")
    restored(archive, tmp_path / "new")
    assert wishes(tmp_path / "new") == {"web", "committed"}


def test_a_backup_never_holds_half_a_transaction(data: Path, tmp_path: Path) -> None:
    """While two rows are written together again and again, every backup has both of them or none."""
    path, stop = data / "orchestrator" / "orchestrator.db", threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            for number in count():
                if stop.is_set():
                    return
                writer.execute("BEGIN IMMEDIATE")
                writer.execute("INSERT INTO announcements VALUES (?, 1, 1)", (f"n{number}",))
                writer.execute("INSERT INTO events VALUES (?, 'web', zeroblob(5000))", (number + 1,))
                writer.execute("COMMIT")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        archives = [saved(data, f"{number}.tgz") for number in range(5)]
    finally:
        stop.set()
        thread.join()
    found = []
    for archive in archives:
        restored(archive, tmp_path / "new", force=True)
        with closing(sqlite3.connect(tmp_path / "new" / "orchestrator" / "orchestrator.db")) as connection:
            (wanted,) = connection.execute("SELECT count(*) FROM announcements WHERE deployment_id != 'web'").fetchone()
            (told,) = connection.execute("SELECT count(*) FROM events").fetchone()
        assert wanted == told
        found.append(wanted)
    assert found[-1] > found[0], "it was written to meanwhile"


def test_a_backup_is_closed_to_others_and_leaves_nothing_beside_it(data: Path) -> None:
    """It holds the private key: its mode is 0600, whatever the umask, and what it was made from is gone."""
    before = os.umask(0)
    try:
        archive = saved(data)
    finally:
        os.umask(before)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in data.parent.iterdir()} == {"data", "saved.tgz"}


def test_a_backup_replaces_no_file(data: Path) -> None:
    """A name that is taken is refused."""
    (data.parent / "saved.tgz").write_text("precious")
    with pytest.raises(FailedPrecondition) as caught:
        saved(data)
    assert caught.value.reason == "FILE_EXISTS"
    assert (data.parent / "saved.tgz").read_text() == "precious"


def test_there_is_nothing_to_save_where_no_node_ran(tmp_path: Path) -> None:
    """An empty directory is not saved as a node."""
    with pytest.raises(FailedPrecondition) as caught:
        saved(tmp_path / "nowhere")
    assert caught.value.reason == "NOTHING_TO_BACK_UP"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_is_not_saved_as_if_it_were_well(data: Path) -> None:
    """The backup that one would restore from must not be the damage itself."""
    (data / "orchestrator" / "orchestrator.db").write_bytes(b"no database at all, and long enough for a header" * 99)
    with pytest.raises(DataLoss) as caught:
        saved(data)
    assert caught.value.reason == "DATABASE_CORRUPT"
    assert not (data.parent / "saved.tgz").exists()


def refused(archive: Path, data: Path, *, force: bool = False) -> BeemeshError:
    with pytest.raises(BeemeshError) as caught:
        restored(archive, data, force=force)
    return caught.value


def test_a_directory_in_use_is_refused(data: Path) -> None:
    """While a node, or one of its services, runs on it."""
    archive = saved(data)
    with claimed(data, lock_name=NODE_LOCK):
        assert refused(archive, data, force=True).reason == "DATA_DIR_IN_USE"
    with claimed(data / "provider"):
        assert refused(archive, data, force=True).reason == "DATA_DIR_IN_USE"


def test_a_directory_that_is_not_empty_is_refused(data: Path) -> None:
    """Without --force nothing is replaced; the error names what is there."""
    before = files(data)
    error = refused(saved(data), data)
    assert (error.reason, "engine-mock" in error.message, "--force" in error.message) == (
        "DATA_DIR_NOT_EMPTY",
        True,
        True,
    )
    assert files(data) == before | {NODE_LOCK}


def test_force_sets_aside_what_it_replaces(data: Path) -> None:
    """What was there is in a directory of its own, a database with all that SQLite kept beside it."""
    archive = saved(data)
    announced(data, "later")
    note(data, "orchestrator/orchestrator.db-wal", "changes of the database that goes")
    note(data, "registry/choices.json", "{}")
    done = restored(archive, data, force=True)
    assert wishes(data) == {"web"}
    assert (data / "registry/choices.json").read_text() == '{"default_engine": "podman"}'
    assert done.set_aside == data / "replaced-now"
    assert {"orchestrator/orchestrator.db-wal", "orchestrator/orchestrator.db", "provider/node.key"} < files(
        data / "replaced-now"
    )
    assert (data / "engine-mock/backend/x.json").exists(), "a backend's own is not touched"
    assert not (data / "orchestrator/orchestrator.db-wal").exists()


def test_a_damaged_database_gives_way_to_the_backup(data: Path) -> None:
    """What a start refuses is set aside as it is, and the restored one is whole."""
    archive = saved(data)
    (data / "orchestrator" / "orchestrator.db").write_bytes(b"")
    restored(archive, data, force=True)
    assert wishes(data) == {"web"}
    assert (data / "replaced-now" / "orchestrator" / "orchestrator.db").read_bytes() == b""


def test_what_was_set_aside_is_not_replaced_by_what_is_set_aside_next(data: Path) -> None:
    """Two restores at the same time of day keep two states."""
    archive = saved(data)
    for content in ("one", "two"):
        note(data, "registry/choices.json", content)
        restored(archive, data, force=True)
    found = {(data / name / "registry/choices.json").read_text() for name in ("replaced-now", "replaced-now-2")}
    assert found == {"one", "two"}


def test_what_an_engine_noted_of_what_runs_stays(data: Path) -> None:
    """Records of this node's workloads stay where they are newer or changed; a broken one does not."""
    node_id = json.loads((data / RECORD).read_text())["node_id"]
    broken = "engine-podman/workloads/beemesh-broken-12345678.json"
    note(data, broken, "{}")
    archive = saved(data)
    note(data, broken, "{")
    note(data, RECORD, json.dumps({"node_id": node_id, "phase": "NEW"}))
    newer = RECORD.replace("web", "newer")
    note(data, newer, json.dumps({"node_id": node_id}))
    done = restored(archive, data, force=True)
    assert set(done.kept) == {RECORD, newer}
    assert json.loads((data / RECORD).read_text())["phase"] == "NEW"
    assert (data / newer).exists()
    assert (data / broken).read_text() == "{}"


def test_what_another_node_noted_goes(data: Path, tmp_path: Path) -> None:
    """Over another node's data nothing of it stays in force."""
    make_node(tmp_path / "other")
    note(tmp_path / "other", RECORD.replace("web", "theirs"), '{"node_id": "another"}')
    done = restored(saved(data), tmp_path / "other", force=True)
    assert done.kept == ()
    assert not (tmp_path / "other" / RECORD.replace("web", "theirs")).exists()
    assert node_key.load_or_create(tmp_path / "other" / "provider").node_id == done.header.node_id


def test_an_interrupted_restore_is_noticed_and_can_be_repeated(data: Path) -> None:
    """A directory that is half restored is named as such, is not saved, and is whole after the next restore."""
    archive = saved(data)
    (data / "restore-under-way").touch()
    with pytest.raises(FailedPrecondition, match="run it again, with --force"):
        check_whole(data)
    with pytest.raises(FailedPrecondition, match="interrupted"):
        saved(data, "again.tgz")
    restored(archive, data, force=True)
    check_whole(data)


# What is not believed


def rewritten(archive: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The same archive with members changed, in order."""
    with tarfile.open(archive) as tar:
        members = {item.name: (tar.extractfile(item) or BytesIO()).read() for item in tar.getmembers()}
    change(members)
    forged = archive.with_name("forged.tgz")
    with tarfile.open(forged, "w:gz") as tar:
        for name, content in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            tar.addfile(item, BytesIO(content))
    return forged


def header(change: Callable[[dict[str, object]], None]) -> Callable[[dict[str, bytes]], None]:
    """A change of the header."""

    def changed(members: dict[str, bytes]) -> None:
        said = json.loads(members["backup.json"])
        change(said)
        members["backup.json"] = json.dumps(said).encode()

    return changed


def renamed(path: str) -> Callable[[dict[str, bytes]], None]:
    """The record's file, under another name, as the header has it too."""

    def change(members: dict[str, bytes]) -> None:
        members["backup.json"] = members["backup.json"].replace(RECORD.encode(), path.encode())
        members[path] = members.pop(RECORD)

    return change


def test_a_newer_schema_in_a_backup_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    """A database that this release cannot read is named with both versions before anything is touched."""
    with closing(sqlite3.connect(data / "orchestrator" / "orchestrator.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    error = refused(saved(data), tmp_path / "new")
    assert error.reason == "SCHEMA_TOO_NEW"
    assert "orchestrator/orchestrator.db in" in error.message
    assert "schema version 99, made by release 1.2" in error.message
    assert files(tmp_path / "new") == {NODE_LOCK}


def test_a_newer_format_is_refused_though_it_cannot_be_read(data: Path, tmp_path: Path) -> None:
    """A backup of a later release says so, whatever else its header has become."""

    def later(members: dict[str, bytes]) -> None:
        members["backup.json"] = b'{"format": 2, "release": "9.0"}'

    error = refused(rewritten(saved(data), later), tmp_path / "new")
    assert (error.reason, "release 9.0" in error.message) == ("BACKUP_TOO_NEW", True)


@pytest.mark.parametrize(
    "path",
    [
        "../escaped",
        "/tmp/escaped",
        "engine-podman/workloads/../../../escaped.json",
        "engine-podman/../../escaped",
        "provider/lock",
        "engine-podman/workloads/.hidden.json",
        "node.lock",
    ],
)
def test_a_path_that_is_no_file_of_a_node_is_never_written(data: Path, tmp_path: Path, path: str) -> None:
    """An archive cannot write beside the data directory, nor anything in it that a node does not keep."""
    error = refused(rewritten(saved(data), renamed(path)), tmp_path / "new")
    assert error.reason == "BACKUP_DAMAGED"
    assert files(tmp_path / "new") == {NODE_LOCK}
    assert not (tmp_path / "escaped").exists()
    assert not Path("/tmp/escaped").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_plain_files_are_taken(data: Path, tmp_path: Path, kind: bytes) -> None:
    """A link in the place of a file is refused."""
    archive, forged = saved(data), tmp_path / "forged.tgz"
    with tarfile.open(archive) as old, tarfile.open(forged, "w:gz") as new:
        for item in old.getmembers():
            content = old.extractfile(item)
            if item.name == RECORD:
                item.type, item.linkname, item.size, content = kind, "/etc/passwd", 0, None
            new.addfile(item, content)
    assert refused(forged, tmp_path / "new").reason == "BACKUP_DAMAGED"
    assert files(tmp_path / "new") == {NODE_LOCK}


def _one_more(members: dict[str, bytes]) -> None:
    members["registry/more.json"] = b"{}"


def _one_less(members: dict[str, bytes]) -> None:
    del members["provider/node.key"]


def _changed(members: dict[str, bytes]) -> None:
    members["registry/choices.json"] = members["registry/choices.json"].replace(b"podman", b"docker")


def _no_header(members: dict[str, bytes]) -> None:
    del members["backup.json"]


def _other_version(said: dict[str, object]) -> None:
    said["schemas"] = {"orchestrator/orchestrator.db": 0}


@pytest.mark.parametrize("change", [_one_more, _one_less, _changed, _no_header, header(_other_version)])
def test_an_archive_that_is_not_what_it_says_is_refused(
    data: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    """A file too many, too few, another content, no list or another version: nothing is restored."""
    assert refused(rewritten(saved(data), change), tmp_path / "new").reason == "BACKUP_DAMAGED"
    assert files(tmp_path / "new") == {NODE_LOCK}


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_archive_is_refused(data: Path, tmp_path: Path, part: float, cut: bool) -> None:
    """Cut off, or with bytes changed, wherever: nothing is restored, and what was there is as it was."""
    archive = saved(data)
    content = archive.read_bytes()
    place = int(len(content) * part)
    archive.write_bytes(content[:place] if cut else content[:place] + b"\xa5\x5a" * 4 + content[place + 8 :])
    before = wishes(data)
    assert refused(archive, data, force=True).reason == "BACKUP_DAMAGED"
    assert wishes(data) == before
    check_whole(data)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """The name is in the error."""
    error = refused(tmp_path / "nothing.tgz", tmp_path / "new")
    assert (error.reason, "nothing.tgz" in error.message) == ("BACKUP_NOT_READABLE", True)


def test_the_known_schemas_are_those_of_the_services() -> None:
    """What restore compares with is what each service brings its database to."""
    known = {"orchestrator/orchestrator.db": ORCHESTRATOR.version, "provider/provider.db": PROVIDER.version}
    assert known == VERSIONS
