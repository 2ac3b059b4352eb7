"""A service remembers whose it is, and says when it cannot read that."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.data_dir.node_id import remember, remembered
from services.errors import DataLoss, FailedPrecondition

ID = "ab" * 20


def test_what_is_remembered_is_there_after(tmp_path: Path) -> None:
    """Nothing at first, then the id."""
    assert remembered(tmp_path) == ""
    remember(tmp_path, ID)
    assert remembered(tmp_path) == ID


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"abc", ID.upper().encode()])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    """It is not taken for an id, nor for none."""
    (tmp_path / "node_id").write_bytes(content)
    with pytest.raises(DataLoss, match="remove it, and the provider is asked again") as caught:
        remembered(tmp_path)
    assert (caught.value.reason, str(tmp_path / "node_id") in caught.value.message) == ("NODE_ID_DAMAGED", True)


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Instead of an error of Python's."""
    with pytest.raises(FailedPrecondition):
        remember(tmp_path / "nowhere", ID)
