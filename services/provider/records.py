"""Signed records: how they are written, read and judged. Pure: the time is an argument, the key is the caller's.

A packet is `msgpack([v, key, pub, seq, issued_ms, ttl_ms, flags, addr, [subject, meta]])` followed by the 64 bytes of
an Ed25519 signature over a domain and exactly those bytes. Authority is the signature, not who hands a packet on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import msgpack  # type: ignore[import-untyped]  # no stubs are published
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services import identity
from services.errors import BeemeshError, FieldViolation, InvalidArgument

VERSION = 1
PACKET_MAX = 700
"""Bytes of a packet, its signature included: two of them and their frame fit one unfragmented datagram."""
SKEW_MS = 60_000
TTL_MIN_MS = 30_000
TTL_MAX_MS = 48 * 3_600_000
TOMBSTONE_TTL_MAX_MS = TTL_MAX_MS + SKEW_MS

_DOMAIN = b"beemesh/v1/record\0"
_NODE_DOMAIN = b"beemesh/v1/node-record\0"
_APPLIED_DOMAIN = "beemesh/v1/applied/"
_SIGNATURE = 64
_TOMBSTONE = 0x80
_SEQ_MAX = (1 << 63) - 1
_LIMITS = {
    "max_str_len": PACKET_MAX,
    "max_bin_len": 64,
    "max_array_len": 16,
    "max_map_len": 64,
    "max_ext_len": 0,
}


class Kind(IntEnum):
    """What a record says; the low bits of its flags."""

    PROVIDER = 0
    """Subject: a manifest id. This node runs it."""
    NODE = 1
    """Subject: the node's own id. What it can run and where it is reached."""
    APPLIED = 2
    """Subject: a manifest id. What was applied; found by stock clients under `applied_name`."""


class Verdict(StrEnum):
    """What became of a record; these words travel on the wire."""

    OK = "ok"
    SAME = "same"
    STALE = "stale"
    FULL = "full"
    EXPIRED = "expired"
    SKEW = "skew"
    BAD = "bad"


class Refused(Exception):
    """A packet that is not accepted, and why."""

    def __init__(self, verdict: Verdict, why: str) -> None:
        super().__init__(why)
        self.verdict = verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record whose packet is signed; made only by `make` and `read`."""

    kind: Kind
    subject: str
    tombstone: bool
    public_key: bytes
    seq: int
    """Of two records of one provider under one key the greater counts."""
    issued_ms: int
    ttl_ms: int
    address: str
    metadata: Mapping[str, str]
    key: bytes
    """20 bytes: where in the DHT it lives."""
    provider: bytes
    """20 bytes: the node id of `public_key`."""
    packet: bytes
    """The exact bytes, signature included."""

    @property
    def expires_ms(self) -> int:
        """When it ends: signed and absolute, so that nobody's replay extends it."""
        return self.issued_ms + self.ttl_ms

    @property
    def signature(self) -> bytes:
        """The packet's last 64 bytes."""
        return self.packet[-_SIGNATURE:]

    @property
    def node_id(self) -> str:
        """The provider as 40 hex digits."""
        return self.provider.hex()


def applied_name(manifest_id: str) -> str:
    """The name under which a stock `kademlia` client gets the applied-manifest record."""
    return _APPLIED_DOMAIN + manifest_id


def key_of(kind: Kind, subject: str) -> bytes:
    """The 20-byte DHT key of a subject."""
    if kind is Kind.PROVIDER:
        return identity.manifest_key(subject)
    if kind is Kind.NODE:
        return hashlib.sha256(_NODE_DOMAIN + subject.encode()).digest()[:20]
    # Stock clients hash names with SHA-1; nothing rests on its strength.
    return hashlib.sha1(applied_name(subject).encode(), usedforsecurity=False).digest()


def make(
    *,
    kind: Kind,
    subject: str,
    public_key: bytes,
    sign: Callable[[bytes], bytes],
    seq: int,
    issued_ms: int,
    ttl_ms: int,
    tombstone: bool = False,
    address: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Record:
    """Sign a record; raises InvalidArgument (RECORD_TOO_LARGE) past `PACKET_MAX`."""
    meta = dict(metadata or {})
    key = key_of(kind, subject)
    flags = int(kind) | (_TOMBSTONE if tombstone else 0)
    body = _pack([VERSION, key, public_key, seq, issued_ms, ttl_ms, flags, address, [subject, meta]])
    size = len(body) + _SIGNATURE
    if size > PACKET_MAX:
        message = f"the signed record would have {size} bytes; at most {PACKET_MAX} fit: shorten or drop extra entries"
        raise InvalidArgument(
            message,
            reason="RECORD_TOO_LARGE",
            metadata={"size": str(size), "limit": str(PACKET_MAX)},
            violations=[FieldViolation(field_path="metadata", message=message, reason="RECORD_TOO_LARGE")],
        )
    return Record(
        kind=kind,
        subject=subject,
        tombstone=tombstone,
        public_key=public_key,
        seq=seq,
        issued_ms=issued_ms,
        ttl_ms=ttl_ms,
        address=address,
        metadata=meta,
        key=key,
        provider=bytes.fromhex(identity.node_id(public_key)),
        packet=body + sign(_DOMAIN + body),
    )


def read(packet: bytes, *, own: bool = False) -> Record:
    """The record of a packet whose form and signature hold; raises Refused(BAD). Judges no time: see `check_time`.

    `own`: it comes from the file beside this node's key, where its signature was made, and that is not checked again.
    """
    if not _SIGNATURE < len(packet) <= PACKET_MAX:
        raise Refused(Verdict.BAD, f"{len(packet)} bytes; expected at most {PACKET_MAX}")
    body, signature = packet[:-_SIGNATURE], packet[-_SIGNATURE:]
    record = _parse(_unpack(body), packet)
    _check_meaning(record)
    if own:
        return record
    try:
        Ed25519PublicKey.from_public_bytes(record.public_key).verify(signature, _DOMAIN + body)
    except (InvalidSignature, ValueError) as error:
        raise Refused(Verdict.BAD, "the signature does not hold") from error
    return record


def check_time(record: Record, now_ms: int) -> None:
    """Raise Refused: SKEW when it was issued more than 60 s in the future, EXPIRED when it has ended."""
    if record.issued_ms > now_ms + SKEW_MS:
        raise Refused(Verdict.SKEW, f"issued {record.issued_ms - now_ms} ms in the future")
    if record.expires_ms <= now_ms:
        raise Refused(Verdict.EXPIRED, f"ended {now_ms - record.expires_ms} ms ago")


def _pack(fields: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


def _unpack(body: bytes) -> list[Any]:
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True, **_LIMITS)
        # One record has one encoding: no repeated map keys, no long forms of short numbers.
        exact = isinstance(fields, list) and len(fields) == 9 and _pack(fields) == body
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(Verdict.BAD, f"not msgpack of a record: {error}") from error
    if not exact:
        raise Refused(Verdict.BAD, "not nine fields in their one encoding")
    found: list[Any] = fields
    return found


def _parse(fields: list[Any], packet: bytes) -> Record:
    version, key, public_key, seq, issued_ms, ttl_ms, flags, address, meta = fields
    numbers = all(type(n) is int and 0 <= n <= _SEQ_MAX for n in (version, seq, issued_ms, ttl_ms, flags))
    if not numbers or version != VERSION:
        raise Refused(Verdict.BAD, "a number is none, negative or too great, or the version is unknown")
    if not (_is_bytes(key, 20) and _is_bytes(public_key, 32) and isinstance(address, str)):
        raise Refused(Verdict.BAD, "key, public key or address has the wrong form")
    if not (isinstance(meta, list) and len(meta) == 2 and isinstance(meta[0], str) and _is_text_map(meta[1])):
        raise Refused(Verdict.BAD, "metadata is not [subject, map of texts]")
    if (kind := flags & ~_TOMBSTONE) not in set(Kind):
        raise Refused(Verdict.BAD, f"unknown flags {flags:#x}")
    return Record(
        kind=Kind(kind),
        subject=meta[0],
        tombstone=bool(flags & _TOMBSTONE),
        public_key=public_key,
        seq=seq,
        issued_ms=issued_ms,
        ttl_ms=ttl_ms,
        address=address,
        metadata=meta[1],
        key=key,
        provider=bytes.fromhex(identity.node_id(public_key)),
        packet=packet,
    )


def _check_meaning(record: Record) -> None:
    """What a rightly signed record may still get wrong."""
    if record.key != key_of(record.kind, record.subject):
        raise Refused(Verdict.BAD, f"its key is not that of {record.subject[:80]!r}")
    if record.kind is Kind.NODE:
        if record.subject != record.node_id:
            raise Refused(Verdict.BAD, "a node may describe only itself")
    else:
        try:
            identity.check_deployment_id(record.subject, field="manifest_id")
        except BeemeshError as error:
            raise Refused(Verdict.BAD, error.message) from error
    longest = TOMBSTONE_TTL_MAX_MS if record.tombstone else TTL_MAX_MS
    if not TTL_MIN_MS <= record.ttl_ms <= longest:
        raise Refused(Verdict.BAD, f"a TTL of {record.ttl_ms} ms; expected {TTL_MIN_MS} to {longest}")
    if record.seq == 0:
        raise Refused(Verdict.BAD, "a sequence begins at 1")


def _is_bytes(value: object, length: int) -> bool:
    return isinstance(value, bytes) and len(value) == length


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
