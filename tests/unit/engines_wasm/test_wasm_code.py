"""A function's code reaches its directory whole, and nothing leads out of it."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.engines.wasm import code
from services.errors import FailedPrecondition


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A compressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def lay(directory: Path, archive: bytes) -> Path:
    """Unpack it; where the code is."""
    (directory / "in").write_bytes(archive)
    place = directory / "function"
    place.mkdir()
    code.lay({"archive": {"path": f"{directory}/in"}}, place, handler="main.process", roots=[directory])
    return place / "code"


@pytest.mark.parametrize(
    ("handler", "file"), [("main.process", "main.py"), ("pkg.inner.process", "pkg/inner.py"), ("a.b", "a.py")]
)
def test_inline_code_is_the_handlers_module(tmp_path: Path, handler: str, file: str) -> None:
    """To the byte."""
    code.lay({"inline": "# ü\n"}, tmp_path, handler=handler, roots=[])
    assert (tmp_path / "code" / file).read_bytes() == "# ü\n".encode()


def test_archives_of_both_kinds_are_unpacked(tmp_path: Path) -> None:
    """With their directories, which need no entries of their own."""
    (tmp_path / "zip").mkdir()
    (tmp_path / "tar").mkdir()
    for place, archive in (
        (tmp_path / "zip", zipped({"main.py": b"1", "a/b/c.txt": b"2", "a/": b""})),
        (tmp_path / "tar", tarred((tarfile.TarInfo("main.py"), b"1"), (tarfile.TarInfo("./a/b/c.txt"), b"2"))),
    ):
        files = lay(place, archive)
        assert {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()} == {
            "main.py": b"1",
            "a/b/c.txt": b"2",
        }


def link(target: str) -> tarfile.TarInfo:
    """A symbolic link."""
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    "archive",
    [
        zipped({"../out.py": b""}),
        zipped({"/etc/out.py": b""}),
        zipped({"a/../../out.py": b""}),
        zipped({"a": b"", "a/b": b""}),
        tarred((tarfile.TarInfo("../out.py"), b"")),
        tarred((link("/etc"), b"")),
        b"neither",
        zipped({"main.py": b"x" * 1000})[:-30],
        zipped({"main.py": bytes(range(256))}).replace(bytes(range(60, 70)), bytes(10)),
    ],
    ids=["above", "absolute", "through", "file and directory", "tar above", "link", "no archive", "cut", "damaged"],
)
def test_what_leads_out_or_is_broken_is_refused(tmp_path: Path, archive: bytes) -> None:
    """CODE_INVALID, and nothing is written beside."""
    (tmp_path / "place").mkdir()
    with pytest.raises(FailedPrecondition) as caught:
        lay(tmp_path / "place", archive)
    assert caught.value.reason == "CODE_INVALID"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_small_archive_of_huge_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However well it is compressed, and however many files there are."""
    monkeypatch.setattr(code, "UNPACKED_MAX", 10_000)
    monkeypatch.setattr(code, "FILES_MAX", 5)
    for number, files in enumerate(({"a": b"0" * 20_000}, {str(name): b"" for name in range(6)})):
        (place := tmp_path / str(number)).mkdir()
        with pytest.raises(FailedPrecondition, match="it holds more than"):
            lay(place, zipped(files))


def test_a_path_counts_only_below_an_allowed_directory(tmp_path: Path) -> None:
    """Not beside it, not by a link, and not at all where nothing is allowed."""
    (allowed := tmp_path / "allowed").mkdir()
    (tmp_path / "secret").write_bytes(zipped({"main.py": b""}))
    (allowed / "link").symlink_to(tmp_path / "secret")
    for path, roots in ((tmp_path / "secret", [allowed]), (allowed / "link", [allowed]), (tmp_path / "secret", [])):
        (tmp_path / "f").mkdir(exist_ok=True)
        with pytest.raises(FailedPrecondition) as caught:
            code.lay({"archive": {"path": str(path)}}, tmp_path / "f", handler="main.process", roots=roots)
        assert caught.value.reason == "PATH_NOT_ALLOWED"
        (tmp_path / "f" / "code").rmdir()
