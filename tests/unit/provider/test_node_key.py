from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.errors import DataLoss, FailedPrecondition
from services.identity import node_id
from services.provider.node_key import NodeKey, load_or_create


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """The first start makes a key that only its owner can read; every later one loads the same."""
    first = load_or_create(tmp_path)
    again = load_or_create(tmp_path)
    assert (first.node_id, first.public_key) == (again.node_id, again.public_key)
    assert first.node_id == node_id(first.public_key)
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["node.key"]


def test_the_file_is_a_pem_that_other_tools_read(tmp_path: Path) -> None:
    """The key file is PKCS#8 PEM of the same key."""
    key = load_or_create(tmp_path)
    pem = load_pem_private_key((tmp_path / "node.key").read_bytes(), password=None)
    assert pem.public_key().public_bytes_raw() == key.public_key  # type: ignore[union-attr]  # it is Ed25519


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("PRIVATE", "PUBLIC"),
        lambda text: text.replace("node-id: ", "node-id: 0"),
        lambda text: text + "more\n",
        lambda text: text.replace("\n", "\nÄ", 1),
        lambda text: _flip(text),
    ],
    ids=["empty", "half", "not private", "other id", "longer", "not ASCII", "one letter of the key"],
)
def test_a_damaged_key_is_a_clear_error_and_stays_as_it_is(tmp_path: Path, damage: object) -> None:
    """A damaged key file ends the start with DATA_LOSS; no new identity takes its place."""
    load_or_create(tmp_path)
    path = tmp_path / "node.key"
    assert callable(damage)
    damaged = damage(path.read_text())
    path.write_text(damaged)
    with pytest.raises(DataLoss) as raised:
        load_or_create(tmp_path)
    assert raised.value.reason == "KEY_DAMAGED"
    assert str(path) in raised.value.message
    assert path.read_text() == damaged


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key file with a wider mode than 0600 is refused."""
    load_or_create(tmp_path)
    (tmp_path / "node.key").chmod(0o640)
    with pytest.raises(FailedPrecondition) as raised:
        load_or_create(tmp_path)
    assert raised.value.reason == "KEY_EXPOSED"


def test_a_lost_key_is_not_replaced_where_records_remain(tmp_path: Path) -> None:
    """Where this node's records are but its key is not, no key is made."""
    with pytest.raises(DataLoss) as raised:
        load_or_create(tmp_path, may_create=False)
    assert raised.value.reason == "KEY_MISSING"
    assert list(tmp_path.iterdir()) == []


def test_an_error_does_not_show_the_key(tmp_path: Path) -> None:
    """The text of a damaged key's error holds nothing of the private part."""
    key = NodeKey.generate()
    text = key.to_text()
    secret = text.splitlines()[2]
    (tmp_path / "node.key").write_text(text.replace("node-id: ", "node-id: 0"))
    (tmp_path / "node.key").chmod(0o600)
    with pytest.raises(DataLoss) as raised:
        load_or_create(tmp_path)
    assert secret[20:40] not in raised.value.message


def _flip(text: str) -> str:
    head, begin, body, end = text.splitlines()
    letter = "A" if body[30] != "A" else "B"
    return "\n".join([head, begin, body[:30] + letter + body[31:], end, ""])
