"""The one door between the network and the records: nothing unsigned comes in, nothing expired goes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kademlia.storage import IStorage

from services.provider.announcer import Announcer
from services.provider.catalogue import Catalogue
from services.provider.records import Kind, Record, Verdict


class SignedStorage(IStorage):  # type: ignore[misc]  # kademlia is untyped
    """What `kademlia` takes for a dictionary of values; the values it sees are packets of applied-manifest records."""

    def __init__(self, *, announcer: Announcer, catalogue: Catalogue) -> None:
        self._announcer = announcer
        self._catalogue = catalogue

    def accept(self, packet: object, *, key: bytes, source: str) -> tuple[Verdict, int]:
        """Judge a value for a key: only a packet with a valid signature is kept, whoever sends it."""
        if not isinstance(packet, bytes):
            return Verdict.BAD, 0
        return self._announcer.receive(packet, key=key, source=source)

    def hand_on(self, key: bytes) -> list[Record]:
        """Valid records and tombstones under a key, in provider order."""
        return self._catalogue.to_hand_on(key)

    def get(self, key: bytes, default: Any = None) -> Any:
        """The newest applied-manifest packet under a stock key."""
        holding = self._catalogue.newest_under(key)
        return default if holding is None or holding.record.kind is not Kind.APPLIED else holding.record.packet

    def __getitem__(self, key: bytes) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        packet: bytes = value
        return packet

    def __setitem__(self, key: bytes, value: object) -> None:
        """Raises ValueError when the value is refused."""
        verdict, _ = self.accept(value, key=key, source="local")
        if verdict not in (Verdict.OK, Verdict.SAME):
            raise ValueError(f"the value is refused: {verdict}")

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Nothing: stock code would hand values on under the hash of their key."""
        return iter(())

    def iter_older_than(self, seconds_old: float) -> Iterable[tuple[bytes, bytes]]:
        """Nothing: records are renewed by who signed them, never stamped anew."""
        return ()
