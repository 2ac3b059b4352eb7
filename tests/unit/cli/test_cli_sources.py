"""What `-f` names."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.report import Failure
from services.cli.sources import compose_id, read
from services.identity import check_deployment_id


def test_a_file_is_read_byte_for_byte(tmp_path: Path) -> None:
    """A manifest's text is what is in the file, line ends and all."""
    (tmp_path / "pod.yaml").write_bytes(b"a: 1\r\nb: \xc3\xa9\n")
    (source,) = read([str(tmp_path / "pod.yaml")])
    assert source.text == "a: 1\r\nb: é\n"
    assert source.name == str(tmp_path / "pod.yaml")


def test_a_directory_is_its_manifests_in_name_order(tmp_path: Path) -> None:
    """Of a directory all YAML and JSON files are read, by name; others are not."""
    for name in ("b.yml", "a.yaml", "c.json", "notes.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d.yaml").mkdir()
    assert [source.text for source in read([str(tmp_path)])] == ["a.yaml", "b.yml", "c.json"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dash reads standard input; its folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"kind: Pod")))
    (source,) = read(["-"])
    assert (source.name, source.text, source.folder) == ("stdin", "kind: Pod", tmp_path.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"a: \xff"), r"not UTF-8 text \(byte 3\)"),
        (lambda path: path.mkdir(), "no manifest in it"),
    ],
    ids=["missing", "not text", "empty directory"],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, make: object, message: str) -> None:
    """A path that cannot be read ends in one line that names it and says why."""
    path = tmp_path / "it"
    assert callable(make)
    make(path)
    with pytest.raises(Failure, match=rf"{re.escape(str(path))}: {message}"):
        read([str(path)])


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("shop", "compose-shop"), ("My Shop_2", "compose-my-shop-2"), ("é", "compose-project"), ("-x-", "compose-x")],
)
def test_a_nameless_compose_file_takes_its_folders_name(folder: str, expected: str) -> None:
    """The folder's name is made a deployment id."""
    assert compose_id(folder) == expected


@given(st.text(max_size=80))
def test_any_folder_gives_a_valid_id(folder: str) -> None:
    """Whatever the folder is called, the id is one that a node accepts."""
    assert check_deployment_id(compose_id(folder)).startswith("compose-")
