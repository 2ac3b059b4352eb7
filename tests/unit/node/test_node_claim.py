"""A directory belongs to one node, and to one user."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.data_dir import claimed
from services.errors import FailedPrecondition


def test_a_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    """A directory that is not there is made, closed to others."""
    with claimed(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_second_node_is_refused_by_name(tmp_path: Path) -> None:
    """A directory in use is refused, and the message names the directory and the process that has it."""
    directory = tmp_path / "data"
    with (
        claimed(directory),
        pytest.raises(FailedPrecondition, match=rf"{directory} is in use .*pid \d+"),
        claimed(directory),
    ):
        pass


def test_a_directory_can_be_claimed_again(tmp_path: Path) -> None:
    """After a node has ended, its directory serves the next one."""
    for _ in range(2):
        with claimed(tmp_path / "data"):
            assert (tmp_path / "data").is_dir()


@pytest.mark.parametrize("mode", [0o750, 0o707, 0o777, 0o711])
def test_a_directory_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """A directory that others can enter is refused rather than changed: it may be theirs as well."""
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(FailedPrecondition, match="other users can enter"), claimed(directory):
        pass
    assert directory.stat().st_mode & 0o777 == mode
