"""The node's Ed25519 key: made once, kept as `node.key`, never overwritten, never silently replaced."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.errors import DataLoss, FailedPrecondition
from services.identity import node_id

FILE_NAME = "node.key"

_PKCS8_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
"""RFC 8410: all that stands before the 32 bytes of the seed. Written by hand: cryptography's PEM code costs 30 ms."""
_BEGIN, _END = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
_SIZE_MAX = 4096


class NodeKey:
    """A key pair and the node id that is its public half's hash."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key: bytes = self._private.public_key().public_bytes_raw()
        """32 bytes."""
        self.node_id: str = node_id(self.public_key)
        """40 hex digits."""

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._private.sign(message)

    @classmethod
    def generate(cls) -> NodeKey:
        """A new key, nowhere stored."""
        return cls(os.urandom(32))

    def to_text(self) -> str:
        """PKCS#8 PEM that openssl reads; the line before it names the id, so that damage shows."""
        body = base64.b64encode(_PKCS8_ED25519 + self._seed).decode()
        return f"node-id: {self.node_id}\n{_BEGIN}\n{body}\n{_END}\n"

    @classmethod
    def from_text(cls, text: str) -> NodeKey:
        """Read `to_text`'s form; raises ValueError when it is anything else or the id does not fit the key."""
        match text.splitlines():
            case [claim, begin, body, end] if (begin, end) == (_BEGIN, _END):
                raw = base64.b64decode(body, validate=True)
            case _:
                raise ValueError("expected a node-id line and a PEM private key")
        if len(raw) != len(_PKCS8_ED25519) + 32 or not raw.startswith(_PKCS8_ED25519):
            raise ValueError("the PEM block is not an Ed25519 private key")
        key = cls(raw[len(_PKCS8_ED25519) :])
        if claim != f"node-id: {key.node_id}":
            raise ValueError(f"the key is that of node {key.node_id}, the file says {claim[:60]!r}")
        return key


def load_or_create(directory: Path, *, may_create: bool = True) -> NodeKey:
    """The key in `directory`, made on first use (mode 0600).

    Raises DataLoss (KEY_DAMAGED, KEY_MISSING when `may_create` is off) and FailedPrecondition (KEY_EXPOSED).
    """
    path = directory / FILE_NAME
    if not path.exists():
        if not may_create:
            raise DataLoss(
                f"{path} is missing, but records of this node are there; restore the key, "
                "or move the data directory away to begin as a new node",
                reason="KEY_MISSING",
                metadata={"path": str(path)},
            )
        _create(path)
    return _load(path)


def _load(path: Path) -> NodeKey:
    if path.stat().st_mode & 0o077:
        raise FailedPrecondition(
            f"{path} can be read by others; expected mode 0600: chmod 600 it, or replace it if others had access",
            reason="KEY_EXPOSED",
            metadata={"path": str(path)},
        )
    try:
        with path.open("rb") as file:
            return NodeKey.from_text(file.read(_SIZE_MAX).decode("ascii"))
    except ValueError as error:
        raise DataLoss(
            f"{path} is damaged: {error}; restore it from a backup, "
            "or move the data directory away to begin as a new node",
            reason="KEY_DAMAGED",
            metadata={"path": str(path)},
        ) from error


def _create(path: Path) -> None:
    """Write beside, then link: the name appears with all of its content or not at all, and never replaces a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".node.key-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(NodeKey.generate().to_text())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # another start was first; its key counts
    finally:
        Path(temporary).unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
