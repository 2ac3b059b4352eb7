"""The one way to call: keepalive that notices a frozen peer, retries of what may be repeated, and a deadline always.

Every call names its timeout as `timeout=budget(seconds)`; a test reads the code for calls that do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import grpc
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

from services.rpc.server import MAX_MESSAGE_BYTES

_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2.5,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it a frozen peer is never noticed
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A stalled reader then holds 64 KiB of a watch instead of megabytes.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
]


def connect(
    target: str, *, files: Iterable[FileDescriptor] = (), root_certificate: Path | None = None
) -> grpc.aio.Channel:
    """A channel to `unix:/path` or `host:port`; unary methods of `files` that are marked idempotent are retried.

    Cancel each stream before closing the channel: grpc does not end one that nobody is reading just then.
    """
    config = _service_config(tuple(s for file in files for s in file.services_by_name.values()))
    options = [
        *_KEEPALIVE,
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", config),
        ("grpc.enable_retries", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Two channels of one process to one place must not share a connection: one's close would be the other's.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if root_certificate is None:
        return grpc.aio.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(root_certificate.read_bytes())
    return grpc.aio.secure_channel(target, credentials, options=options)


@cache
def _service_config(services: tuple[ServiceDescriptor, ...]) -> str:
    """Retries for unary methods whose `idempotency_level` in the contract says that a repeat is safe."""
    names = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level and not (method.client_streaming or method.server_streaming)
    ]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY}]} if names else {})
