"""Datagrams as stock `kademlia` frames them, read strictly: a kind byte, 20 bytes of message id, msgpack. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]  # no stubs are published

DATAGRAM_MAX = 8_300
"""What a stock client may send; ours stay under `OWN_MAX`."""
OWN_MAX = 1_200
ID_SIZE = 20

_HEAD = 1 + ID_SIZE
_LIMITS = {
    "max_str_len": 256,
    "max_bin_len": DATAGRAM_MAX,
    "max_array_len": 128,
    "max_map_len": 16,
    "max_ext_len": 0,
}
# A stock client may store a long text; it is read so that it can be refused.
_REQUEST_LIMITS = _LIMITS | {"max_str_len": DATAGRAM_MAX}


class Malformed(Exception):
    """Bytes that are no message of ours, or arguments that do not fit the function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Somebody asks for `name(*arguments)`."""

    id: bytes
    name: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Somebody answers the request with this id."""

    id: bytes
    value: Any


def decode(datagram: bytes) -> Request | Response:
    """Read one datagram; raises Malformed, and nothing else, whatever the bytes."""
    if not _HEAD < len(datagram) <= DATAGRAM_MAX:
        raise Malformed(f"{len(datagram)} bytes")
    kind, message_id, body = datagram[0], datagram[1:_HEAD], datagram[_HEAD:]
    if kind == 1:
        return Response(id=message_id, value=_unpack(body, _LIMITS))
    if kind != 0:
        raise Malformed(f"kind {kind}")
    value = _unpack(body, _REQUEST_LIMITS)
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not isinstance(value[0], str)
        or not isinstance(value[1], list)
    ):
        raise Malformed("a request is [name, arguments]")
    return Request(id=message_id, name=value[0], arguments=value[1])


def encode_request(message_id: bytes, name: str, arguments: Sequence[Any]) -> bytes:
    """A request's datagram."""
    return b"\x00" + message_id + _pack([name, list(arguments)])


def encode_response(message_id: bytes, value: Any) -> bytes:
    """A response's datagram."""
    return b"\x01" + message_id + _pack(value)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _unpack(body: bytes, limits: dict[str, int]) -> Any:
    try:
        return msgpack.unpackb(body, raw=False, strict_map_key=True, **limits)
    except (ValueError, TypeError, OverflowError) as error:
        raise Malformed(str(error)) from error
