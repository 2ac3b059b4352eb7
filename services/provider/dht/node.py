"""This node in the DHT: a `kademlia` server that listens, answers and counts, and knows no peers yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from kademlia.network import Server
from kademlia.utils import digest

from services.errors import Unavailable, Unimplemented
from services.provider.dht.proofs import Address, Tokens
from services.provider.dht.protocol import Counters, DhtProtocol
from services.provider.dht.storage import SignedStorage


class DhtNode(Server):  # type: ignore[misc]  # kademlia is untyped
    """`listen`, then `stop`. The public shape is stock's; what would store unsigned values is refused."""

    def __init__(self, *, node_id: bytes, storage: SignedStorage, secret: bytes, clock: Callable[[], float]) -> None:
        """`secret` keys the tokens; `clock` gives seconds since 1970."""
        super().__init__(node_id=node_id)
        self.storage = storage  # stock would replace a storage that is empty
        self._tokens = Tokens(secret)
        self._clock = clock

    def _create_protocol(self) -> DhtProtocol:
        return DhtProtocol(self.node, self.storage, self.ksize, tokens=self._tokens, clock=self._clock)

    async def listen(self, port: int, interface: str = "127.0.0.1") -> None:
        """Bind; raises Unavailable (ADDRESS_IN_USE). Nothing is refreshed: there are no contacts."""
        loop = asyncio.get_running_loop()
        try:
            self.transport, self.protocol = await loop.create_datagram_endpoint(
                self._create_protocol, local_addr=(interface, port)
            )
        except OSError as error:
            raise Unavailable(
                f"cannot listen on UDP {interface}:{port}: {error}",
                reason="ADDRESS_IN_USE",
                metadata={"address": f"{interface}:{port}"},
            ) from error

    @property
    def address(self) -> str:
        """Where it listens, `host:port`; an IPv6 host in brackets."""
        host, port = self.transport.get_extra_info("sockname")[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def counters(self) -> Counters:
        """Traffic since `listen`."""
        counters: Counters = self.protocol.counters
        return counters

    @property
    def peer_count(self) -> int:
        """Contacts in the routing table."""
        return sum(len(bucket.nodes) for bucket in self.protocol.router.buckets)

    async def get(self, key: str) -> Any:
        """The packet that a stock client gets under this name, from this node alone; None when there is none."""
        return self.storage.get(digest(key))

    async def set(self, key: str, value: object) -> NoReturn:
        """Refused: records come in signed, through the announcer."""
        raise Unimplemented(f"{key!r} cannot be set: only signed records are stored", reason="UNSUPPORTED_VERB")

    async def set_digest(self, dkey: bytes, value: object) -> NoReturn:
        """Refused, as `set`."""
        await self.set(dkey.hex(), value)

    async def bootstrap(self, addrs: Sequence[Address]) -> NoReturn:
        """Refused: joining other nodes is not in this release."""
        raise peers_unsupported(",".join(f"{host}:{port}" for host, port in addrs))


def peers_unsupported(peers: str) -> Unimplemented:
    """What is said instead of pretending to join."""
    return Unimplemented(
        f"joining peers ({peers[:200]}) is not in this release, each node announces and finds alone: "
        "leave dht_peers empty",
        reason="DHT_PEERS_UNSUPPORTED",
    )
