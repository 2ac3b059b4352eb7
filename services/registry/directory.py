"""The registered engines: lease, names, health as last seen, damping, cordon and default. Pure: time is an argument.

Every `now` is in seconds of one steady clock that never goes back. Anything that reads or changes an engine first lets
that time pass (leases expire, calm returns), so that the answer never depends on when a timer last ran.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from services.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    QuotaViolation,
    ResourceExhausted,
)

MOCK = "mock"
"""The engine that only runs what names it: always last, never the default."""

REASON_MAX = 500
"""Longest reason of a cordon, in characters."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ALIASES_MAX = 16
_ENDPOINT = re.compile(r"unix:/\S+|dns:/{2,3}\S+|(?!unix:|dns:)\S+:\d{1,5}")
_TEXT_MAX = 256


class HealthState(IntEnum):
    """The numbers of beemesh.engine.v1.EngineHealthState; UNKNOWN: nobody can say."""

    UNKNOWN = 0
    UNDETECTED = 1
    UNHEALTHY = 2
    HEALTHY = 3
    DRAINING = 4


class Availability(IntEnum):
    """The numbers of beemesh.registry.v1.Engine.Availability."""

    AVAILABLE = 1
    UNAVAILABLE = 2
    SUSPECT = 3


_RANK = {Availability.AVAILABLE: 0, Availability.SUSPECT: 1, Availability.UNAVAILABLE: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long things last, in seconds, and how many there may be."""

    flap_transitions: int = 3
    """So many changes between usable and unusable …"""
    flap_window: float = 60.0
    """… within so long make an engine SUSPECT …"""
    calm: float = 30.0
    """… until it has not changed for so long."""
    keep_expired: float = 600.0
    """How long an engine whose lease ran out stays listed."""
    max_engines: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """An engine's health as it last said, or why nobody knows it (state UNKNOWN)."""

    state: HealthState
    reason: str = ""
    """UPPER_SNAKE_CASE, e.g. SOCKET_UNREACHABLE."""
    message: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    transition_time: float | None = None
    """Seconds since 1970, by the engine's clock; so is `probe_time`."""
    probe_time: float | None = field(default=None, compare=False)
    """Not compared: a probe that finds what the last one found is no news."""
    flap_count: int = 0


HEALTH_UNKNOWN = Health(
    state=HealthState.UNKNOWN, reason="HEALTH_UNKNOWN", message="the engine has registered and not yet said its health"
)
WATCH_BROKEN = Health(
    state=HealthState.UNKNOWN, reason="WATCH_BROKEN", message="the engine's process does not answer the registry"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Who an engine says it is."""

    engine: str
    """podman, docker, …"""
    formats: frozenset[int]
    """Numbers of beemesh.type.v1.ManifestFormat."""
    encoded: bytes
    """All of it (an EngineInfo) as the engine sent it: handed on unread, newer fields included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What an engine says when it registers."""

    engine_id: str
    endpoint: str
    """gRPC target."""
    instance_id: str
    """New at every start of the engine's process."""
    lease: float
    """Seconds."""
    priority: int = 0
    """Lower is preferred."""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What an operator chose; it outlives the registry's process and the engines' registrations."""

    default_engine: str = ""
    """An engine id; empty for none."""
    cordons: Mapping[str, str] = field(default_factory=dict)
    """Reasons (may be empty) by engine id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One engine as the world sees it at one moment."""

    registration: Registration
    info: Info | None
    health: Health
    availability: Availability
    reason: str
    """Why it is not AVAILABLE, e.g. LEASE_EXPIRED or `UNHEALTHY:SOCKET_UNREACHABLE`; empty when it is."""
    cordon: str | None
    """Why it takes no new deployments ("" when nobody said); None when it does."""
    register_time: float
    """Steady clock; when this instance first registered."""
    expire_time: float = field(compare=False)
    """Steady clock. Not compared: a renewed lease is no news."""

    @property
    def engine_id(self) -> str:
        """The engine's id."""
        return self.registration.engine_id

    @property
    def cordoned(self) -> bool:
        """Whether it takes no new deployments."""
        return self.cordon is not None

    @property
    def is_mock(self) -> bool:
        """Whether this engine only runs what names it."""
        return self.engine_id == MOCK or (self.info is not None and self.info.engine == MOCK)


@dataclass(slots=True, kw_only=True)
class _Entry:
    registration: Registration
    register_time: float
    expire_time: float
    transitions: deque[float]
    """Times of the last changes between usable and not, since the last calm; the first time usable is none."""
    info: Info | None = None
    health: Health = HEALTH_UNKNOWN
    usable: bool = False
    was_usable: bool = False
    """At any time since it was listed."""
    flapping: bool = False


class Directory:
    """The engines of one node by id; ids and aliases are one name space."""

    def __init__(self, *, timings: Timings, choices: Choices) -> None:
        self._timings = timings
        self._entries: dict[str, _Entry] = {}
        self.choices = choices

    def register(self, wanted: Registration, *, now: float) -> View:
        """Add an engine, or renew its lease; another instance takes over, its health unknown until it says it.

        Raises InvalidArgument, AlreadyExists (ALIAS_TAKEN), ResourceExhausted (TOO_MANY_ENGINES).
        """
        self.pass_time(now)
        wanted = _checked(wanted)
        self._check_names(wanted)
        entry = self._entries.get(wanted.engine_id)
        if entry is None:
            self._check_room(wanted)
            entry = _Entry(
                registration=wanted,
                register_time=now,
                expire_time=now,
                transitions=deque(maxlen=self._timings.flap_transitions),
            )
            self._entries[wanted.engine_id] = entry
        elif entry.registration.instance_id != wanted.instance_id:
            entry.register_time, entry.health = now, HEALTH_UNKNOWN
        entry.registration, entry.expire_time = wanted, now + wanted.lease
        self._settle(entry, now)
        return self._view(entry, now)

    def unregister(self, name: str, *, instance_id: str, allow_missing: bool, now: float) -> bool:
        """Remove an engine; with `instance_id` only if that instance holds the lease. Returns whether it was there.

        Raises NotFound (ENGINE_NOT_FOUND), FailedPrecondition (NOT_LEASE_HOLDER).
        """
        self.pass_time(now)
        entry = self._lookup(name)
        if entry is None:
            if allow_missing:
                return False
            raise self._not_found(name)
        held = entry.registration
        if instance_id and instance_id != held.instance_id:
            raise FailedPrecondition(
                f"engine {held.engine_id}: instance {instance_id} does not hold the lease, {held.instance_id} does",
                reason="NOT_LEASE_HOLDER",
                metadata={"engine": held.engine_id, "holder": held.instance_id},
            )
        del self._entries[held.engine_id]
        return True

    def see_health(self, engine_id: str, instance_id: str, health: Health, *, now: float) -> None:
        """Take note of an engine's health; a late word about an instance that is gone is ignored."""
        self.pass_time(now)
        entry = self._entries.get(engine_id)
        if entry is not None and entry.registration.instance_id == instance_id:
            entry.health = health
            self._settle(entry, now)

    def see_info(self, engine_id: str, instance_id: str, info: Info, *, now: float) -> None:
        """Take note of who an engine says it is; a late word of an instance that is gone is ignored."""
        self.pass_time(now)
        entry = self._entries.get(engine_id)
        if entry is not None and entry.registration.instance_id == instance_id:
            entry.info = info

    def pass_time(self, now: float) -> None:
        """Let leases expire and calm return; forget engines that have been gone for long."""
        for engine_id, entry in list(self._entries.items()):
            if now >= entry.expire_time + self._timings.keep_expired:
                del self._entries[engine_id]
            else:
                self._settle(entry, now)

    def get(self, name: str, *, now: float) -> View:
        """One engine by id or alias; raises NotFound (ENGINE_NOT_FOUND)."""
        self.pass_time(now)
        entry = self._lookup(name)
        if entry is None:
            raise self._not_found(name)
        return self._view(entry, now)

    def views(self, *, now: float) -> list[View]:
        """All engines, best first: available, suspect, unavailable; then by priority, then by id; mock always last."""
        self.pass_time(now)
        return sorted((self._view(entry, now) for entry in self._entries.values()), key=_preference)

    def with_default(self, name: str, *, now: float) -> Choices:
        """The choices with this default (id or alias; empty clears it); it may be unavailable. Changes nothing yet.

        Raises NotFound (ENGINE_NOT_FOUND), FailedPrecondition (MOCK_NOT_DEFAULT).
        """
        if not name:
            return replace(self.choices, default_engine="")
        if name == MOCK or self.get(name, now=now).is_mock:
            raise FailedPrecondition(
                f"engine {name} cannot be the default: mock runs only what names it", reason="MOCK_NOT_DEFAULT"
            )
        return replace(self.choices, default_engine=self.get(name, now=now).engine_id)

    def with_cordon(self, name: str, *, cordoned: bool, reason: str, now: float) -> Choices:
        """The choices with this engine cordoned or not. Changes nothing yet. Raises NotFound, InvalidArgument."""
        if len(reason) > REASON_MAX:
            raise _invalid("reason", f"is longer than {REASON_MAX} characters")
        engine_id = self.get(name, now=now).engine_id
        cordons = {known: why for known, why in self.choices.cordons.items() if known != engine_id}
        return replace(self.choices, cordons=cordons | ({engine_id: reason} if cordoned else {}))

    def _lookup(self, name: str) -> _Entry | None:
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        return next((entry for entry in self._entries.values() if name in entry.registration.aliases), None)

    def _check_names(self, wanted: Registration) -> None:
        for name in (wanted.engine_id, *wanted.aliases):
            holder = self._lookup(name)
            if holder is not None and holder.registration.engine_id != wanted.engine_id:
                other = holder.registration.engine_id
                raise AlreadyExists(
                    f"engine {wanted.engine_id}: the name {name!r} is an id or alias of engine {other}",
                    reason="ALIAS_TAKEN",
                    metadata={"engine": wanted.engine_id, "alias": name, "holder": other},
                )

    def _check_room(self, wanted: Registration) -> None:
        limit = self._timings.max_engines
        if len(self._entries) >= limit:
            raise ResourceExhausted(
                f"engine {wanted.engine_id}: {limit} engines are registered, which is the most there may be",
                reason="TOO_MANY_ENGINES",
                quota=[QuotaViolation(subject="registry:engines", description=f"asked 1, free 0 of {limit}")],
            )

    def _settle(self, entry: _Entry, now: float) -> None:
        """Bring damping up to date with what is known at `now`."""
        timings, transitions = self._timings, entry.transitions
        if transitions and now - transitions[-1] >= timings.calm:
            transitions.clear()
            entry.flapping = False
        usable = not _fault(entry, now)
        if usable == entry.usable:
            return
        entry.usable = usable
        if entry.was_usable:
            transitions.append(now)
            full = len(transitions) == timings.flap_transitions
            entry.flapping = entry.flapping or (full and now - transitions[0] <= timings.flap_window)
        entry.was_usable = True

    def _view(self, entry: _Entry, now: float) -> View:
        fault = _fault(entry, now)
        availability, reason = Availability.UNAVAILABLE, fault
        if not fault:
            suspect = entry.flapping
            availability = Availability.SUSPECT if suspect else Availability.AVAILABLE
            reason = "FLAPPING" if suspect else ""
        return View(
            registration=entry.registration,
            info=entry.info,
            health=entry.health,
            availability=availability,
            reason=reason,
            cordon=self.choices.cordons.get(entry.registration.engine_id),
            register_time=entry.register_time,
            expire_time=entry.expire_time,
        )

    def _not_found(self, name: str) -> NotFound:
        known = ", ".join(sorted(self._entries)) or "none"
        return NotFound(
            f"engine {name[:_TEXT_MAX]!r} is not registered; known: {known}",
            reason="ENGINE_NOT_FOUND",
            metadata={"engine": name[:_TEXT_MAX]},
        )


def _fault(entry: _Entry, now: float) -> str:
    """Why this engine cannot be used, or empty."""
    if now >= entry.expire_time:
        return "LEASE_EXPIRED"
    match entry.health.state:
        case HealthState.HEALTHY:
            return ""
        case HealthState.UNKNOWN:
            return entry.health.reason
        case HealthState.DRAINING:
            return "DRAINING"
        case state:
            return f"{state.name}:{entry.health.reason}" if entry.health.reason else state.name


def _preference(view: View) -> tuple[bool, int, int, str]:
    return view.is_mock, _RANK[view.availability], view.registration.priority, view.engine_id


def _checked(wanted: Registration) -> Registration:
    """The registration, its aliases without repeats and without its own id; raises InvalidArgument."""
    for name, field_path in ((wanted.engine_id, "engine_id"), *((alias, "aliases") for alias in wanted.aliases)):
        if not _LABEL.fullmatch(name):
            raise _invalid(field_path, f"{name[:80]!r}: expected a DNS label: 1 to 63 of a-z, 0-9 and '-'")
    if not 0 < len(wanted.instance_id) <= _TEXT_MAX:
        raise _invalid("instance_id", f"is needed, at most {_TEXT_MAX} characters: new at every start of the engine")
    if len(wanted.endpoint) > _TEXT_MAX or not _ENDPOINT.fullmatch(wanted.endpoint):
        raise _invalid("endpoint", f"{wanted.endpoint[:80]!r}: expected unix:/path, dns:///host:port or host:port")
    if len(wanted.aliases) > _ALIASES_MAX:
        raise _invalid("aliases", f"at most {_ALIASES_MAX}")
    return replace(wanted, aliases=tuple(sorted(set(wanted.aliases) - {wanted.engine_id})))


def _invalid(field_path: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field_path} {message}",
        reason=f"BAD_{field_path.upper()}",
        violations=[FieldViolation(field_path=field_path, message=message)],
    )
