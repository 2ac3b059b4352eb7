"""RegistryService: looks up, calls the registry, converts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from beemesh.registry.v1 import registry_service_pb2 as pb
from beemesh.registry.v1.registry_service_pb2_grpc import RegistryServiceServicer
from beemesh.type.v1 import types_pb2

from services.errors import FieldViolation, InvalidArgument
from services.identity import bare
from services.registry.directory import Availability, Registration, View
from services.registry.registry import Registry
from services.registry.watcher import Watchers
from services.registry.wire import from_view
from services.rpc.convert import duration, from_duration
from services.rpc.listing import paginate_ranked, parse_filter
from services.rpc.watch import EventType

PROBE_SECONDS = 1.0
PROBE_SECONDS_MAX = 30.0

Context = Any
"""The servicer asks nothing of grpc's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRange:
    """What leases engines may ask for, in seconds."""

    default: float = 15.0
    low: float = 5.0
    high: float = 3600.0


class Servicer(RegistryServiceServicer):
    """`wall_offset` says what, added to the registry's steady clock, gives seconds since 1970 by the clock of now."""

    def __init__(
        self, *, registry: Registry, watchers: Watchers, leases: LeaseRange, wall_offset: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._watchers = watchers
        self._leases = leases
        self._wall_offset = wall_offset

    async def RegisterEngine(self, request: pb.RegisterEngineRequest, context: Context) -> pb.RegisterEngineResponse:
        """Add an engine or renew its lease."""
        lease = self._leases.default
        if request.HasField("lease_duration"):
            low, high = self._leases.low, self._leases.high
            lease = from_duration(request.lease_duration, field="lease_duration", low=low, high=high)
        view = self._registry.register(
            Registration(
                engine_id=_id(request.engine_id),
                endpoint=request.endpoint,
                instance_id=request.instance_id,
                lease=lease,
                priority=request.priority,
                aliases=tuple(request.aliases),
            )
        )
        return pb.RegisterEngineResponse(engine=self._engine(view), renew_interval=duration(lease / 3))

    async def UnregisterEngine(
        self, request: pb.UnregisterEngineRequest, context: Context
    ) -> pb.UnregisterEngineResponse:
        """Remove an engine."""
        self._registry.unregister(
            _id(request.engine_id), instance_id=request.instance_id, allow_missing=request.allow_missing
        )
        return pb.UnregisterEngineResponse()

    async def GetEngine(self, request: pb.GetEngineRequest, context: Context) -> pb.GetEngineResponse:
        """One engine by id or alias."""
        return pb.GetEngineResponse(engine=self._engine(self._registry.get(_id(request.engine_id))))

    async def ListEngines(self, request: pb.ListEnginesRequest, context: Context) -> pb.ListEnginesResponse:
        """A page of engines, best first."""
        terms = _terms(request.filter)
        found = [view for view in self._registry.views() if _listed(view, request) and _matches(view, terms)]
        page, token = paginate_ranked(
            found, key=lambda view: view.engine_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListEnginesResponse(
            engines=[self._engine(view) for view in page],
            next_page_token=token,
            default_engine=self._registry.default_engine,
        )

    async def WatchEngines(
        self, request: pb.WatchEnginesRequest, context: Context
    ) -> AsyncIterator[pb.WatchEnginesResponse]:
        """Snapshot, SYNCED, changes; a change of the default engine is a BOOKMARK."""
        async with aclosing(self._registry.feed.watch(resume_token=request.resume_token)) as events:
            async for event in events:
                kind, engine = event.type, None
                if isinstance(event.item, View):
                    engine = self._engine(event.item)
                elif event.item is not None:
                    if kind is EventType.SNAPSHOT:
                        continue  # SYNCED will say it
                    kind = EventType.BOOKMARK
                yield pb.WatchEnginesResponse(
                    type=types_pb2.WatchEventType.ValueType(int(kind)),
                    engine=engine,
                    resume_token=event.token,
                    default_engine=self._registry.default_engine,
                )

    async def CheckAvailableEngines(
        self, request: pb.CheckAvailableEnginesRequest, context: Context
    ) -> pb.CheckAvailableEnginesResponse:
        """Which engines can be used now, from what is known or from asking all of them at once."""
        silent: dict[str, str] = {}
        if request.probe:
            seconds = PROBE_SECONDS
            if request.HasField("probe_timeout"):
                seconds = from_duration(request.probe_timeout, field="probe_timeout", low=0.001, high=PROBE_SECONDS_MAX)
            silent = await self._watchers.probe(seconds=seconds)
        views = [_unless_silent(view, silent.get(view.engine_id, "")) for view in self._registry.views()]
        return pb.CheckAvailableEnginesResponse(
            available={view.engine_id: view.availability is Availability.AVAILABLE for view in views},
            engines=[self._engine(view) for view in views],
            default_engine=self._registry.default_engine,
        )

    async def GetDefaultEngine(
        self, request: pb.GetDefaultEngineRequest, context: Context
    ) -> pb.GetDefaultEngineResponse:
        """The default engine, or none."""
        return pb.GetDefaultEngineResponse(default_engine=self._registry.default_engine)

    async def SetDefaultEngine(
        self, request: pb.SetDefaultEngineRequest, context: Context
    ) -> pb.SetDefaultEngineResponse:
        """Choose the default engine, or none."""
        previous = self._registry.set_default(_id(request.engine_id))
        return pb.SetDefaultEngineResponse(
            previous_default_engine=previous, default_engine=self._registry.default_engine
        )

    async def CordonEngine(self, request: pb.CordonEngineRequest, context: Context) -> pb.CordonEngineResponse:
        """Stop or resume new deployments on an engine."""
        view = self._registry.cordon(_id(request.engine_id), cordoned=request.cordoned, reason=request.reason)
        return pb.CordonEngineResponse(engine=self._engine(view))

    def _engine(self, view: View) -> pb.Engine:
        return from_view(view, wall_offset=self._wall_offset())


def _id(name: str) -> str:
    return bare(name, "engines")


def _listed(view: View, request: pb.ListEnginesRequest) -> bool:
    if request.available_only and view.availability is not Availability.AVAILABLE:
        return False
    return not request.format or (view.info is not None and request.format in view.info.formats)


def _terms(text: str) -> dict[str, str]:
    terms = parse_filter(text, fields=("engine_id", "availability", "cordoned"))
    known = {"availability": Availability.__members__.keys(), "cordoned": ("true", "false")}
    if "availability" in terms:
        terms["availability"] = terms["availability"].removeprefix("AVAILABILITY_")
    for name, values in known.items():
        if name in terms and terms[name] not in values:
            message = f"{name}={terms[name]}: expected one of {', '.join(values)}"
            violation = FieldViolation(field_path="filter", message=message)
            raise InvalidArgument(f"filter {message}", reason="BAD_FILTER", violations=[violation])
    return terms


def _matches(view: View, terms: dict[str, str]) -> bool:
    names = (view.engine_id, *view.registration.aliases)
    return (
        terms.get("engine_id", view.engine_id) in names
        and terms.get("availability", view.availability.name) == view.availability.name
        and terms.get("cordoned", str(view.cordoned).lower()) == str(view.cordoned).lower()
    )


def _unless_silent(view: View, why: str) -> View:
    return replace(view, availability=Availability.UNAVAILABLE, reason=why) if why else view
