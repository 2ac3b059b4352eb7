"""The operator's choices on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services.errors import DataLoss, ResourceExhausted
from services.registry.directory import Choices
from services.registry.store import ChoicesFile

CHOICES = Choices(default_engine="podman", cordons={"docker": "new disk", "wasm": ""})


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """Choices come back as they were; where nothing was saved there are none; nothing else is left behind."""
    file = ChoicesFile(tmp_path / "registry" / "choices.json")
    assert file.load() == Choices()
    file.save(Choices(default_engine="docker"))
    file.save(CHOICES)
    assert file.load() == ChoicesFile(tmp_path / "registry" / "choices.json").load() == CHOICES
    assert [path.name for path in (tmp_path / "registry").iterdir()] == ["choices.json"]
    assert stat.S_IMODE((tmp_path / "registry").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "registry" / "choices.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"default_engine": 3}', '{"cordons": {"a": null}}'])
def test_a_broken_file_is_no_empty_one(tmp_path: Path, text: str) -> None:
    """A file that cannot be read stops the start in words, instead of forgetting a cordon."""
    (tmp_path / "choices.json").write_text(text)
    with pytest.raises(DataLoss) as caught:
        ChoicesFile(tmp_path / "choices.json").load()
    assert caught.value.reason == "CHOICES_UNREADABLE"
    assert str(tmp_path / "choices.json") in caught.value.message


def test_when_the_disk_refuses_the_old_choices_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed save is said, leaves the old file whole and no other file."""
    file = ChoicesFile(tmp_path / "choices.json")
    file.save(CHOICES)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceExhausted) as caught:
        file.save(Choices())
    assert caught.value.reason == "DISK_FULL"
    assert str(tmp_path / "choices.json") in caught.value.message
    assert file.load() == CHOICES
    assert [path.name for path in tmp_path.iterdir()] == ["choices.json"]
