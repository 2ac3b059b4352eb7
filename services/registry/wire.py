"""Between the directory's words and the contract's messages."""

from __future__ import annotations

import hashlib

from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.registry.v1 import registry_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.errors import InvalidArgument
from services.registry.directory import Health, HealthState, Info, View
from services.rpc.convert import from_timestamp, timestamp

_SAID = {int(state) for state in HealthState if state is not HealthState.UNKNOWN}


def to_health(message: engine_pb.EngineHealth) -> Health:
    """What an engine said of its health; a state of a newer contract is UNKNOWN."""
    known = int(message.state) in _SAID
    return Health(
        state=HealthState(message.state) if known else HealthState.UNKNOWN,
        reason=message.reason if known else "HEALTH_UNKNOWN",
        message=message.message,
        attributes=dict(message.attributes),
        transition_time=_time(message, "last_transition_time"),
        probe_time=_time(message, "last_probe_time"),
        flap_count=message.flap_count,
    )


def to_info(message: engine_pb.EngineInfo) -> Info:
    """What an engine said of itself."""
    return Info(
        engine=message.engine,
        formats=frozenset(message.formats),
        encoded=message.SerializeToString(deterministic=True),
    )


def from_view(view: View, *, wall_offset: float) -> pb.Engine:
    """One engine as a message; `wall_offset` added to the steady clock gives seconds since 1970."""
    registration, health = view.registration, view.health
    engine = pb.Engine(
        name=f"engines/{view.engine_id}",
        engine_id=view.engine_id,
        endpoint=registration.endpoint,
        health=engine_pb.EngineHealth(
            state=engine_pb.EngineHealthState.ValueType(int(health.state)),
            reason=health.reason,
            message=health.message,
            last_transition_time=timestamp(health.transition_time),
            flap_count=health.flap_count,
            attributes=health.attributes,
        ),
        availability=pb.Engine.Availability.ValueType(int(view.availability)),
        availability_reason=view.reason,
        cordoned=view.cordoned,
        cordon_reason=view.cordon or "",
        aliases=registration.aliases,
        priority=registration.priority,
        register_time=timestamp(view.register_time + wall_offset),
    )
    if view.info is not None:
        engine.info.ParseFromString(view.info.encoded)
    # Before the times that every probe and renewal moves: the etag changes only with what is news.
    engine.etag = hashlib.sha256(engine.SerializeToString(deterministic=True)).hexdigest()[:16]
    if health.probe_time is not None:
        engine.health.last_probe_time.FromMicroseconds(round(health.probe_time * 1e6))
    engine.expire_time.FromMicroseconds(round((view.expire_time + wall_offset) * 1e6))
    return engine


def _time(message: engine_pb.EngineHealth, name: str) -> float | None:
    if not message.HasField(name):  # type: ignore[arg-type]  # both callers name a field
        return None
    value: Timestamp = getattr(message, name)
    try:
        return from_timestamp(value)
    except InvalidArgument:
        return None  # an engine's broken clock is not worth losing its health
