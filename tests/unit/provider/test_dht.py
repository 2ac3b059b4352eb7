"""The wire, without a wire: frames, tokens, and the protocol with a transport that only remembers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]  # no stubs are published
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kademlia.node import Node

from services.provider.dht.frames import DATAGRAM_MAX, Malformed, Request, Response, decode, encode_request
from services.provider.dht.proofs import Proven, Tokens
from services.provider.dht.protocol import DhtProtocol
from services.provider.records import Verdict
from tests.unit.provider.samples import KEY, OTHER_KEY, Clock, record

ID = b"i" * 20
ASKER = ("127.0.0.1", 4000)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=30) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
NAMES = st.sampled_from(
    ["ping", "stun", "store", "find_node", "find_value", "get_providers", "add_provider"]
) | st.text(max_size=12)


class FakeTransport:
    """Remembers what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []

    def is_closing(self) -> bool:
        return False

    def sendto(self, datagram: bytes, address: tuple[str, int]) -> None:
        self.sent.append((datagram, address))


class FakeStorage:
    """Gives out what it was given; accepts bytes that begin with `ok`."""

    def __init__(self) -> None:
        self.records = [record(key=OTHER_KEY), record()]
        self.records.sort(key=lambda r: r.provider)
        self.value: bytes | None = None
        self.asked: list[object] = []

    def get(self, key: bytes, default: object = None) -> object:
        return self.value

    def hand_on(self, key: bytes) -> list[Any]:
        return self.records

    def accept(self, packet: object, *, key: bytes, source: str) -> tuple[Verdict, int]:
        self.asked.append(packet)
        return (Verdict.OK, 7) if isinstance(packet, bytes) and packet.startswith(b"ok") else (Verdict.BAD, 0)


@pytest.fixture
def protocol() -> Iterator[DhtProtocol]:
    made = DhtProtocol(
        Node(bytes.fromhex(KEY.node_id)),
        FakeStorage(),  # type: ignore[arg-type]  # what the protocol uses of it
        20,
        tokens=Tokens(b"t" * 32),
        clock=Clock(),
    )
    made.connection_made(FakeTransport())
    yield made
    made.connection_lost(None)


def sent(protocol: DhtProtocol) -> list[tuple[bytes, tuple[str, int]]]:
    found: list[tuple[bytes, tuple[str, int]]] = protocol.transport.sent
    return found


def ask(protocol: DhtProtocol, name: str, *arguments: object, padding: int = 0) -> object:
    """The value of the answer that goes out at once."""
    before = len(sent(protocol))
    protocol.datagram_received(encode_request(ID, name, arguments), ASKER)
    answers = [decode(datagram) for datagram, _ in sent(protocol)[before:]]
    assert len(answers) == 1
    (answer,) = answers
    assert isinstance(answer, Response), "a challenge went out, not the answer"
    return answer.value


@given(datagram=st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x00" + ID + tail))
def test_any_bytes_are_a_message_or_malformed(datagram: bytes) -> None:
    """Whatever the bytes, decoding gives a message or Malformed."""
    with contextlib.suppress(Malformed):
        assert isinstance(decode(datagram), Request | Response)


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 4000,
        msgpack.packb({"a": 1}),
        msgpack.packb(["ping"]),
        msgpack.packb([1, []]),
        msgpack.packb(["ping", {}]),
        msgpack.packb(["ping", [msgpack.ExtType(1, b"x")]]),
        b"\xdd\xff\xff\xff\xff",
        b"\x92\xa4ping\x91\xdb\xff\xff\xff\xff",
        b"",
        b"x" * DATAGRAM_MAX,
    ],
    ids=["nested", "map", "short", "number", "map of arguments", "ext", "huge array", "huge text", "empty", "long"],
)
def test_bad_requests_are_malformed(body: bytes) -> None:
    """Bombs, other shapes and over-long datagrams are malformed, not errors of another kind."""
    with pytest.raises(Malformed):
        decode(b"\x00" + ID + body)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, arguments=st.lists(VALUES, max_size=4))
async def test_no_request_raises_into_the_loop(protocol: DhtProtocol, name: str, arguments: list[object]) -> None:
    """Whatever is asked with whatever arguments, the protocol answers or counts a rejection, and never raises."""
    before = protocol.counters.received
    protocol.datagram_received(encode_request(ID, name, arguments), ASKER)
    assert protocol.counters.received == before + 1


@given(kind=st.sampled_from([b"\x00", b"\x01", b"\x02"]), tail=st.binary(max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_garbage_is_counted_and_not_answered(protocol: DhtProtocol, kind: bytes, tail: bytes) -> None:
    """Garbage gets no answer; it shows in the counters."""
    rejected, answers = protocol.counters.rejected, len(sent(protocol))
    protocol.datagram_received(kind + b"\xc1" + tail, ASKER)
    assert (protocol.counters.rejected, len(sent(protocol))) == (rejected + 1, answers)


async def test_a_long_answer_waits_until_the_address_has_shown_that_it_receives(protocol: DhtProtocol) -> None:
    """An unproven address gets at most three times what it sent: a ping first, the answer only after its pong."""
    protocol.storage.value = b"v" * 600
    request = encode_request(ID, "find_value", [b"n" * 20, b"k" * 20])
    protocol.datagram_received(request, ASKER)
    assert sum(len(datagram) for datagram, _ in sent(protocol)) <= 3 * len(request)
    ((ping, _),) = sent(protocol)
    challenge = decode(ping)
    assert isinstance(challenge, Request)
    assert challenge.name == "ping"

    pong = b"\x01" + challenge.id + msgpack.packb(b"n" * 20)
    protocol.datagram_received(pong, ("127.0.0.2", 4000))
    assert len(sent(protocol)) == 1, "a pong from elsewhere proves nothing"
    protocol.datagram_received(pong, ASKER)
    answer = decode(sent(protocol)[-1][0])
    assert isinstance(answer, Response)
    assert (answer.id, answer.value) == (ID, {"value": b"v" * 600})
    assert ask(protocol, "find_value", b"n" * 20, b"k" * 20) == {"value": b"v" * 600}


async def test_held_back_answers_are_bounded(protocol: DhtProtocol) -> None:
    """Many unproven askers make neither endless challenges nor endless memory."""
    protocol.storage.value = b"v" * 600
    for number in range(2_000):
        asker = (f"10.0.{number % 250}.{number // 250}", 4000)
        for _ in range(12):
            protocol.datagram_received(encode_request(ID, "find_value", [b"n" * 20, b"k" * 20]), asker)
    assert len(protocol._challenges) <= 256
    assert sum(map(len, protocol._held_back.values())) <= 256 * 8


async def test_a_stock_store_of_anything_unsigned_is_refused(protocol: DhtProtocol) -> None:
    """`store` answers False for every value that is not a signed packet, and True for one that is."""
    for value in ("text", b"bytes", 1, 1.5, True, None, ["ok"], {"ok": b"ok"}):
        assert ask(protocol, "store", b"n" * 20, b"k" * 20, value) is False
    assert protocol.counters.rejected == 8
    assert ask(protocol, "store", b"n" * 20, b"k" * 20, b"ok") is True


async def test_records_are_added_only_with_a_token(protocol: DhtProtocol) -> None:
    """Without a token nothing is judged; get_providers and a refusal give one, and it holds for its key alone."""
    key, other = record().key, record(subject="db").key
    refused = ask(protocol, "add_provider", key, b"wrong", [b"ok"])
    assert isinstance(refused, dict)
    assert protocol.storage.asked == []
    assert isinstance(ask(protocol, "add_provider", other, refused["token"], [b"ok"]), dict)
    assert ask(protocol, "add_provider", key, refused["token"], [b"ok", b"no", 3]) == [
        ["ok", 7],
        ["bad", 0],
        ["bad", 0],
    ]


async def test_providers_come_in_pages_that_fit_a_datagram(protocol: DhtProtocol) -> None:
    """Paging by cursor gives every record once, each datagram within 1200 bytes; what the asker has is left out."""
    key = record().key
    protocol.storage.records = sorted((record(key=_key(n)) for n in range(9)), key=lambda r: r.provider)
    protocol._proven.add(ASKER, protocol._clock())
    found, cursor = [], b""
    while True:
        page = ask(protocol, "get_providers", key, cursor, [])
        assert isinstance(page, dict)
        assert len(sent(protocol)[-1][0]) <= 1_200
        assert page["total"] == 9
        found += page["records"]
        if not (cursor := page["next"]):
            break
    assert found == [r.packet for r in protocol.storage.records]
    have = [[r.provider, r.seq] for r in protocol.storage.records[1:]]
    rest = ask(protocol, "get_providers", key, b"", have)
    assert isinstance(rest, dict)
    assert rest["records"] == [protocol.storage.records[0].packet]


async def test_a_misspelt_attribute_is_an_error_and_no_remote_call(protocol: DhtProtocol) -> None:
    """What stock code would turn into a request to nobody raises."""
    with pytest.raises(AttributeError):
        protocol.find_providers  # noqa: B018 - reading it is the test


async def test_no_contact_enters_unproven(protocol: DhtProtocol) -> None:
    """Whoever pings, the routing table stays empty and nothing is sent to them unasked."""
    assert ask(protocol, "ping", b"n" * 20) == bytes.fromhex(KEY.node_id)
    assert ask(protocol, "find_node", b"n" * 20, b"k" * 20) == []
    assert sum(len(bucket.nodes) for bucket in protocol.router.buckets) == 0
    await asyncio.sleep(0)
    assert len(sent(protocol)) == 2


def test_a_token_holds_for_its_address_and_key_and_not_for_long() -> None:
    """A token is good for at least five and at most ten minutes, for one host and one key."""
    tokens = Tokens(b"t" * 32)
    token = tokens.issue("a", b"k", 1000.0)
    assert tokens.holds(token, "a", b"k", 1000.0 + 300)
    assert not tokens.holds(token, "a", b"k", 1000.0 + 600)
    assert not tokens.holds(token, "b", b"k", 1000.0)
    assert not tokens.holds(token, "a", b"l", 1000.0)
    assert not Tokens(b"u" * 32).holds(token, "a", b"k", 1000.0)


def test_proven_addresses_are_forgotten() -> None:
    """A proof lasts five minutes, and only so many are remembered."""
    proven = Proven()
    proven.add(("a", 1), 0.0)
    assert proven.holds(("a", 1), 299.0)
    assert not proven.holds(("a", 1), 300.0)
    for port in range(5_000):
        proven.add(("b", port), 0.0)
    assert not proven.holds(("a", 1), 1.0)
    assert proven.holds(("b", 4_999), 1.0)


def _key(number: int) -> Any:
    from services.provider.node_key import NodeKey

    return NodeKey(bytes([number]) * 32)
