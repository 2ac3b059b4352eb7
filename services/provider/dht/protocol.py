"""What this node answers over UDP: stock `kademlia` calls, and ours for signed provider records."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kademlia.node import Node
from kademlia.protocol import KademliaProtocol

from services.provider.dht import frames
from services.provider.dht.frames import Malformed, Request, Response
from services.provider.dht.proofs import Address, Proven, Tokens
from services.provider.dht.storage import SignedStorage
from services.provider.records import Verdict

RECORDS_PER_CALL = 8

_REPLY_ROOM = 1_000
"""Bytes of packets in one answer, so that its datagram stays under `frames.OWN_MAX`."""
_HAVE_MAX = 16
_AMPLIFICATION = 3
_CHALLENGE_SECONDS = 1.0
_CHALLENGES_MAX = 256
_HELD_BACK_MAX = 8


@dataclass(slots=True, kw_only=True)
class Counters:
    """Since the service started."""

    sent: int = 0
    received: int = 0
    rejected: int = 0


class DhtProtocol(KademliaProtocol):  # type: ignore[misc]  # kademlia is untyped
    """One node's side of the wire.

    Whatever the bytes, nothing raises into the event loop. An answer more than three times as long as its request goes
    only to an address that has shown that it receives: others are pinged first, and the answer waits for their pong.
    """

    def __init__(
        self, node: Node, storage: SignedStorage, ksize: int, *, tokens: Tokens, clock: Callable[[], float]
    ) -> None:
        super().__init__(node, storage, ksize)
        self.counters = Counters()
        self._tokens = tokens
        self._clock = clock
        self._proven = Proven()
        self._held_back: dict[Address, list[bytes]] = {}
        self._challenges: dict[bytes, tuple[Address, asyncio.TimerHandle]] = {}

    def __getattr__(self, name: str) -> Any:
        """Stock code turns any misspelt attribute into a remote call; here it is an error."""
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def welcome_if_new(self, node: Node) -> None:
        """A contact is learned only after it proved who it is, which needs the part for many nodes; till then none is.

        Stock code would take in any address that a datagram names, and send it values under a wrong hash.
        """

    # Datagrams

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Called by the event loop for each datagram."""
        sender: Address = (addr[0], addr[1])
        try:
            message = frames.decode(data)
            if isinstance(message, Response):
                self._settle(message, sender)
                return
            self.counters.received += 1
            answer = frames.encode_response(message.id, self._answer(message, sender))
        except Malformed:
            self.counters.rejected += 1
            return
        self._reply(answer, sender, asked=len(data))

    def error_received(self, exc: Exception) -> None:
        """A datagram of ours could not be delivered; nobody waits for it."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the socket closes."""
        for _, timer in self._challenges.values():
            timer.cancel()
        self._challenges.clear()
        self._held_back.clear()

    def _answer(self, request: Request, sender: Address) -> Any:
        match request.name, request.arguments:
            case "stun", []:
                return list(sender)
            case "ping", [bytes()]:
                return self.source_node.id
            case "find_node", [bytes(), bytes()]:
                return []  # no contacts: see welcome_if_new
            case "find_value", [bytes(), bytes(key)]:
                return self._find_value(key)
            case "store", [bytes(), bytes(key), value]:
                return self._store(key, value, sender)
            case "get_providers", [bytes(key), bytes(cursor), list(have)] if len(key) == 20 and len(have) <= _HAVE_MAX:
                return self._get_providers(key, cursor, have, sender)
            case "add_provider", [bytes(key), bytes(token), list(packets)] if 0 < len(packets) <= RECORDS_PER_CALL:
                return self._add_provider(key, token, packets, sender)
            case _:
                raise Malformed(f"no function {request.name[:40]!r} with such arguments")

    # Stock calls

    def _find_value(self, key: bytes) -> Any:
        value = self.storage.get(key)
        return [] if value is None else {"value": value}

    def _store(self, key: bytes, value: object, sender: Address) -> bool:
        verdict, _ = self._accept(value, key, sender)
        return verdict in (Verdict.OK, Verdict.SAME)

    # Calls of ours

    def _get_providers(self, key: bytes, cursor: bytes, have: list[Any], sender: Address) -> dict[str, Any]:
        """A page of records in provider order, without those that the asker has; `next` is empty on the last page."""
        known = {}
        for item in have:
            match item:
                case [bytes(provider), int(seq)]:
                    known[provider] = seq
                case _:
                    raise Malformed("`have` lists [provider, seq]")
        held = self.storage.hand_on(key)
        wanted = [r for r in held if r.provider > cursor and known.get(r.provider, 0) < r.seq]
        page, room = [], _REPLY_ROOM
        for record in wanted:
            room -= len(record.packet)
            if room < 0:
                break
            page.append(record)
        return {
            "nodes": [],
            "token": self._tokens.issue(sender[0], key, self._clock()),
            "records": [record.packet for record in page],
            "next": page[-1].provider if len(page) < len(wanted) else b"",
            "total": len(held),
        }

    def _add_provider(self, key: bytes, token: bytes, packets: list[Any], sender: Address) -> Any:
        """[verdict, sequence that counts] per packet; for a token that does not hold, one that does."""
        now = self._clock()
        if not self._tokens.holds(token, sender[0], key, now):
            self.counters.rejected += 1
            return {"token": self._tokens.issue(sender[0], key, now)}
        return [list(self._accept(packet, key, sender)) for packet in packets]

    def _accept(self, packet: object, key: bytes, sender: Address) -> tuple[Verdict, int]:
        verdict, seq = self.storage.accept(packet, key=key, source=sender[0])
        if verdict not in (Verdict.OK, Verdict.SAME, Verdict.STALE):
            self.counters.rejected += 1
        return verdict, seq

    # Sending

    def _reply(self, answer: bytes, sender: Address, *, asked: int) -> None:
        if len(answer) <= _AMPLIFICATION * asked or self._proven.holds(sender, self._clock()):
            self._send(answer, sender)
            return
        waiting = self._held_back.get(sender)
        if waiting is not None:
            if len(waiting) < _HELD_BACK_MAX:
                waiting.append(answer)
        elif len(self._held_back) < _CHALLENGES_MAX:
            self._held_back[sender] = [answer]
            self._challenge(sender)

    def _challenge(self, address: Address) -> None:
        message_id = os.urandom(frames.ID_SIZE)
        timer = asyncio.get_running_loop().call_later(_CHALLENGE_SECONDS, self._give_up, message_id)
        self._challenges[message_id] = (address, timer)
        self.counters.sent += 1
        self._send(frames.encode_request(message_id, "ping", [self.source_node.id]), address)

    def _settle(self, response: Response, sender: Address) -> None:
        address, timer = self._challenges.get(response.id, (None, None))
        if timer is None or address != sender:
            raise Malformed("an answer to nothing that was asked there")
        timer.cancel()
        del self._challenges[response.id]
        self._proven.add(sender, self._clock())
        for answer in self._held_back.pop(sender, ()):
            self._send(answer, sender)

    def _give_up(self, message_id: bytes) -> None:
        address, _ = self._challenges.pop(message_id)
        self._held_back.pop(address, None)

    def _send(self, datagram: bytes, address: Address) -> None:
        if not self.transport.is_closing():
            self.transport.sendto(datagram, address)
