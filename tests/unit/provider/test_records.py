from __future__ import annotations

import msgpack  # type: ignore[import-untyped]  # no stubs are published
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidArgument
from services.identity import manifest_key
from services.provider.records import (
    PACKET_MAX,
    SKEW_MS,
    TTL_MAX_MS,
    Kind,
    Record,
    Refused,
    Verdict,
    applied_name,
    check_time,
    key_of,
    read,
)
from tests.unit.provider.samples import KEY, METADATA, NOW_MS, OTHER_KEY, record

DOMAIN = b"beemesh/v1/record\0"
TEXTS = st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=6)


def signed(*fields: object) -> bytes:
    """A packet of any fields, rightly signed by KEY."""
    body: bytes = msgpack.packb(list(fields), use_bin_type=True)
    return body + KEY.sign(DOMAIN + body)


def fields(**changed: object) -> list[object]:
    values: dict[str, object] = {
        "v": 1,
        "key": manifest_key("web"),
        "pub": KEY.public_key,
        "seq": NOW_MS,
        "issued_ms": NOW_MS,
        "ttl_ms": 900_000,
        "flags": 0,
        "addr": "",
        "meta": ["web", dict(METADATA)],
    }
    return list((values | changed).values())


@given(metadata=TEXTS, tombstone=st.booleans())
def test_what_is_read_is_what_was_made(metadata: dict[str, str], tombstone: bool) -> None:
    """What is read is what was made."""
    made = record(metadata=metadata, tombstone=tombstone)
    assert read(made.packet) == made


@given(metadata=TEXTS, place=st.floats(0, 1, exclude_max=True))
def test_any_flipped_bit_is_refused(metadata: dict[str, str], place: float) -> None:
    """Any flipped bit of a packet is refused."""
    packet = bytearray(record(metadata=metadata).packet)
    bit = int(place * len(packet) * 8)
    packet[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Refused) as refused:
        read(bytes(packet))
    assert refused.value.verdict is Verdict.BAD


@given(packet=st.binary(max_size=PACKET_MAX + 10))
def test_garbage_is_refused_and_nothing_else_happens(packet: bytes) -> None:
    """Garbage is refused, and nothing else happens."""
    with pytest.raises(Refused):
        read(packet)


@given(value=st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9), st.lists, max_leaves=9))
def test_rightly_signed_nonsense_is_refused(value: object) -> None:
    """A rightly signed packet whose fields have other forms is refused."""
    for name in ("v", "key", "pub", "seq", "flags", "addr", "meta"):
        with pytest.raises(Refused):
            read(signed(*fields(**{name: [value, value]})))


@given(later_ms=st.integers(0, 10 * TTL_MAX_MS))
def test_a_replay_does_not_extend_the_expiry(later_ms: int) -> None:
    """However late the same bytes come, their end is the signed one."""
    made = record(ttl_ms=900_000)
    again = read(made.packet)
    assert again.expires_ms == NOW_MS + 900_000
    if later_ms < 900_000:
        check_time(again, NOW_MS + later_ms)
    else:
        assert verdict_at(again, NOW_MS + later_ms) is Verdict.EXPIRED


def test_a_record_of_the_future_is_refused_beyond_the_skew() -> None:
    """A record issued more than 60 s in the future is refused as skewed."""
    check_time(record(issued_ms=NOW_MS + SKEW_MS), NOW_MS)
    assert verdict_at(record(issued_ms=NOW_MS + SKEW_MS + 1), NOW_MS) is Verdict.SKEW


@pytest.mark.parametrize(
    "changed",
    [
        {"key": manifest_key("other")},
        {"meta": ["other", {}]},
        {"meta": ["Not A Name", {}], "key": manifest_key("Not A Name")},
        {"pub": OTHER_KEY.public_key},
        {"ttl_ms": 29_999},
        {"ttl_ms": TTL_MAX_MS + 1},
        {"ttl_ms": 31 * 365 * 86_400_000},
        {"seq": 0},
        {"seq": True},
        {"v": 2},
        {"flags": 9},
        {"flags": 2},
    ],
    ids=str,
)
def test_a_signed_record_that_means_something_wrong_is_refused(changed: dict[str, object]) -> None:
    """A wrong key, another's key, a TTL out of bounds, an unknown version or kind: refused though it is signed."""
    assert read(signed(*fields())).subject == "web"
    with pytest.raises(Refused) as refused:
        read(signed(*fields(**changed)))
    assert refused.value.verdict is Verdict.BAD


def test_a_record_has_one_encoding() -> None:
    """The same fields in a longer encoding are refused."""
    body = msgpack.packb(fields(), use_bin_type=True)
    longer = b"\xdc\x00\x09" + body[1:]
    assert msgpack.unpackb(longer, raw=False) == msgpack.unpackb(body, raw=False)
    with pytest.raises(Refused):
        read(longer + KEY.sign(DOMAIN + longer))


def test_a_node_describes_only_itself() -> None:
    """A node record whose subject is another node is refused."""
    mine = record(kind=Kind.NODE, subject=KEY.node_id)
    assert read(mine.packet).subject == KEY.node_id
    with pytest.raises(Refused):
        read(record(kind=Kind.NODE, subject=OTHER_KEY.node_id).packet)


def test_a_record_that_is_too_large_is_not_made() -> None:
    """A record over 700 bytes is INVALID_ARGUMENT RECORD_TOO_LARGE; one of exactly 700 is made."""
    spare = PACKET_MAX - len(record(metadata={"note": "x" * 40}).packet) + 40
    assert len(record(metadata={"note": "x" * (spare - 1)}).packet) == PACKET_MAX
    with pytest.raises(InvalidArgument) as raised:
        record(metadata={"note": "x" * spare})
    assert raised.value.reason == "RECORD_TOO_LARGE"


def test_the_seed_metadata_leaves_room() -> None:
    """The six keys take under half of a record; a tombstone a quarter."""
    assert len(record().packet) < PACKET_MAX / 2
    assert len(record(tombstone=True).packet) < PACKET_MAX / 4


def test_stock_clients_find_the_applied_record_by_name() -> None:
    """The key of an applied-manifest record is what a stock client's hash makes of its name."""
    from kademlia.utils import digest

    assert key_of(Kind.APPLIED, "web") == digest(applied_name("web"))


def verdict_at(made: Record, now_ms: int) -> Verdict:
    with pytest.raises(Refused) as refused:
        check_time(made, now_ms)
    return refused.value.verdict
