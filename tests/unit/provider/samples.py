"""Keys, records and a clock that the provider's tests share."""

from __future__ import annotations

from collections.abc import Mapping

from services.provider.node_key import NodeKey
from services.provider.records import Kind, Record, make

NOW_MS = 1_800_000_000_000
METADATA: Mapping[str, str] = {
    "runtime_engine": "podman",
    "workload_id": "beemesh-web-0123abcd",
    "node_type": "beemesh-machine",
    "capabilities": "podman,docker",
    "resource.cpu": "4",
    "resource.memory": "8GB",
}
KEY = NodeKey(bytes(range(32)))
OTHER_KEY = NodeKey(bytes(range(1, 33)))


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> float:
        return self.now_ms / 1000

    def advance(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


def record(
    *,
    key: NodeKey = KEY,
    kind: Kind = Kind.PROVIDER,
    subject: str = "web",
    seq: int = NOW_MS,
    issued_ms: int = NOW_MS,
    ttl_ms: int = 900_000,
    tombstone: bool = False,
    metadata: Mapping[str, str] = METADATA,
) -> Record:
    """A rightly signed record."""
    return make(
        kind=kind,
        subject=subject,
        public_key=key.public_key,
        sign=key.sign,
        seq=seq,
        issued_ms=issued_ms,
        ttl_ms=ttl_ms,
        tombstone=tombstone,
        metadata={} if tombstone else metadata,
    )
