"""The directory's words as messages, and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.registry.v1 import registry_service_pb2 as pb
from beemesh.type.v1 import types_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from services.registry.directory import Availability, Health, HealthState, Registration, View
from services.registry.wire import from_view, to_health, to_info

FORMATS = [types_pb2.MANIFEST_FORMAT_KUBERNETES, types_pb2.MANIFEST_FORMAT_COMPOSE]

VIEW = View(
    registration=Registration(
        engine_id="podman", endpoint="unix:/p.sock", instance_id="i1", lease=15, priority=2, aliases=("pod",)
    ),
    info=None,
    health=Health(
        state=HealthState.HEALTHY,
        attributes={"rootless": "true"},
        transition_time=1000.5,
        probe_time=2000.25,
        flap_count=3,
    ),
    availability=Availability.SUSPECT,
    reason="FLAPPING",
    cordon="",
    register_time=10.0,
    expire_time=25.0,
)


def test_an_engines_health_passes_through() -> None:
    """What an engine says of its health is what the registry says of it."""
    said = engine_pb.EngineHealth(
        state=engine_pb.ENGINE_HEALTH_STATE_UNHEALTHY,
        reason="SOCKET_UNREACHABLE",
        message="connect: no such file",
        flap_count=7,
        attributes={"a": "b"},
        last_transition_time=Timestamp(seconds=5),
        last_probe_time=Timestamp(seconds=6),
    )
    view = replace(VIEW, health=to_health(said))
    assert from_view(view, wall_offset=0).health == said


@pytest.mark.parametrize("state", [0, 99])
def test_a_state_that_we_do_not_know_is_unknown(state: int) -> None:
    """An unset state, or one of a newer contract, is no health."""
    found = to_health(engine_pb.EngineHealth(state=engine_pb.EngineHealthState.ValueType(state), reason="X"))
    assert (found.state, found.reason) == (HealthState.UNKNOWN, "HEALTH_UNKNOWN")


def test_an_engines_broken_clock_costs_only_its_times() -> None:
    """A time beyond the calendar is left out; the health stays."""
    said = engine_pb.EngineHealth(
        state=engine_pb.ENGINE_HEALTH_STATE_HEALTHY, last_probe_time=Timestamp(seconds=10**17)
    )
    found = to_health(said)
    assert (found.state, found.probe_time) == (HealthState.HEALTHY, None)


def test_an_engines_description_passes_through_with_fields_we_do_not_know() -> None:
    """EngineInfo is handed on whole, a newer engine's fields included."""
    newer = engine_pb.EngineInfo(engine="podman", formats=FORMATS).SerializeToString() + b"\xfa\x3e\x03new"
    info = to_info(engine_pb.EngineInfo.FromString(newer))
    assert (info.engine, info.formats) == ("podman", frozenset(FORMATS))
    engine = from_view(replace(VIEW, info=info), wall_offset=0)
    assert b"\xfa\x3e\x03new" in engine.info.SerializeToString()


def test_a_view_is_the_message_with_wall_time() -> None:
    """Each field has its place; the steady clock becomes the calendar."""
    engine = from_view(VIEW, wall_offset=1_000_000.0)
    assert (engine.name, engine.engine_id, engine.endpoint, engine.priority) == (
        "engines/podman",
        "podman",
        "unix:/p.sock",
        2,
    )
    assert engine.availability == pb.Engine.AVAILABILITY_SUSPECT
    assert (engine.availability_reason, engine.cordoned) == ("FLAPPING", True)
    assert (engine.register_time.seconds, engine.expire_time.seconds) == (1_000_010, 1_000_025)
    assert engine.health.last_transition_time.ToMilliseconds() == 1_000_500
    assert engine.health.last_probe_time.ToMilliseconds() == 2_000_250


def test_the_etag_changes_with_what_is_news_only() -> None:
    """A renewal or another probe leaves the etag; anything else that can be seen changes it."""
    etag = from_view(VIEW, wall_offset=0).etag
    same = replace(VIEW, expire_time=99, health=replace(VIEW.health, probe_time=3000))
    assert from_view(same, wall_offset=0).etag == etag
    news = (
        replace(VIEW, cordon=None),
        replace(VIEW, reason=""),
        replace(VIEW, health=replace(VIEW.health, message="x")),
        replace(VIEW, registration=replace(VIEW.registration, priority=3)),
    )
    assert len({etag, *(from_view(view, wall_offset=0).etag for view in news)}) == 5
