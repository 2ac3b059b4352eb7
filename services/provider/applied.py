"""The applied-manifest record: what was applied, in a form that stock `kademlia` clients can get."""

from __future__ import annotations

import re

from beemesh.provider.v1 import provider_service_pb2 as pb

from services.errors import FailedPrecondition
from services.provider import wire
from services.provider.records import Record
from services.rpc.convert import from_timestamp, timestamp

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL_PREFIX = "label/"


def to_metadata(message: pb.AppliedManifest, *, now_ms: int) -> dict[str, str]:
    """The record's entries; raises InvalidArgument, and FailedPrecondition for content: it is never published."""
    if message.content:
        raise FailedPrecondition(
            "this node's policy publishes no content; leave applied_manifest.content empty",
            reason="CONTENT_NOT_PUBLISHED",
        )
    if not _DIGEST.fullmatch(message.manifest_digest):
        raise wire.invalid("applied_manifest.manifest_digest", "must be sha256:<64 hex digits>")
    if not message.kind:
        raise wire.invalid("applied_manifest.kind", "is missing")
    applied_ms = int(from_timestamp(message.apply_time) * 1000) if message.HasField("apply_time") else now_ms
    entries = {
        "manifest_digest": message.manifest_digest,
        "kind": message.kind,
        "owner": message.owner,
        "runtime_engine": message.runtime_engine,
        "apply_ms": str(applied_ms),
    }
    return entries | {_LABEL_PREFIX + key: value for key, value in message.labels.items()}


def from_record(record: Record) -> pb.AppliedManifest:
    """A verified record as a message; anyone may have signed it, so what cannot be read is left out."""
    entries = record.metadata
    applied = entries.get("apply_ms", "")
    return pb.AppliedManifest(
        manifest_id=record.subject,
        manifest_digest=entries.get("manifest_digest", ""),
        kind=entries.get("kind", ""),
        owner=entries.get("owner", ""),
        node_id=record.node_id,
        runtime_engine=entries.get("runtime_engine", ""),
        labels={k.removeprefix(_LABEL_PREFIX): v for k, v in entries.items() if k.startswith(_LABEL_PREFIX)},
        apply_time=timestamp(int(applied) / 1000) if re.fullmatch(r"[0-9]{1,14}", applied) else None,
        expire_time=timestamp(record.expires_ms / 1000),
        signature=record.signature,
    )
