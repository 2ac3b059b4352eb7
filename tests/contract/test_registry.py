"""The registry over a real socket, with small engines whose health is scripted."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.registry.v1 import registry_service_pb2 as pb
from beemesh.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from beemesh.type.v1 import types_pb2

from services.errors import (
    AlreadyExists,
    BeemeshError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
)
from services.registry.__main__ import serve
from services.registry.settings import Settings
from services.rpc.client import connect
from services.rpc.convert import duration
from services.rpc.errors import from_rpc_error
from services.rpc.server import Server

T = TypeVar("T")

HEALTHY = engine_pb.ENGINE_HEALTH_STATE_HEALTHY
UNHEALTHY = engine_pb.ENGINE_HEALTH_STATE_UNHEALTHY
DRAINING = engine_pb.ENGINE_HEALTH_STATE_DRAINING
AVAILABLE = pb.Engine.AVAILABILITY_AVAILABLE
UNAVAILABLE = pb.Engine.AVAILABILITY_UNAVAILABLE
SUSPECT = pb.Engine.AVAILABILITY_SUSPECT
KUBERNETES, COMPOSE = types_pb2.MANIFEST_FORMAT_KUBERNETES, types_pb2.MANIFEST_FORMAT_COMPOSE
SNAPSHOT, SYNCED = types_pb2.WATCH_EVENT_TYPE_SNAPSHOT, types_pb2.WATCH_EVENT_TYPE_SYNCED
ADDED, UPDATED = types_pb2.WATCH_EVENT_TYPE_ADDED, types_pb2.WATCH_EVENT_TYPE_UPDATED
REMOVED, BOOKMARK = types_pb2.WATCH_EVENT_TYPE_REMOVED, types_pb2.WATCH_EVENT_TYPE_BOOKMARK


class FakeEngine(engine_grpc.EngineServiceServicer):
    """Says what it is told to say; frozen, it says nothing at all."""

    def __init__(self, kind: str, *formats: int) -> None:
        self.info = engine_pb.EngineInfo(
            engine=kind, formats=[types_pb2.ManifestFormat.ValueType(f) for f in formats or (KUBERNETES,)]
        )
        self.health = engine_pb.EngineHealth(state=HEALTHY)
        self.target = ""
        self.probes = 0
        self._frozen = False
        self._changed = asyncio.Event()

    def say(self, state: engine_pb.EngineHealthState.ValueType, reason: str = "") -> None:
        """Change health."""
        self.health = engine_pb.EngineHealth(state=state, reason=reason)
        self._wake()

    def freeze(self, frozen: bool = True) -> None:
        """Stop answering, or answer again."""
        self._frozen = frozen
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _thaw(self) -> None:
        while self._frozen:
            await self._changed.wait()

    async def GetEngineInfo(self, request: Any, context: Any) -> engine_pb.GetEngineInfoResponse:  # noqa: N802
        await self._thaw()
        return engine_pb.GetEngineInfoResponse(info=self.info)

    async def GetEngineHealth(self, request: Any, context: Any) -> engine_pb.GetEngineHealthResponse:  # noqa: N802
        await self._thaw()
        self.probes += bool(request.probe)
        self.health.last_probe_time.GetCurrentTime()
        return engine_pb.GetEngineHealthResponse(health=self.health)

    async def WatchEngineHealth(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[engine_pb.WatchEngineHealthResponse]:
        while True:
            await self._thaw()
            changed = self._changed
            yield engine_pb.WatchEngineHealthResponse(health=self.health)
            await changed.wait()


@asynccontextmanager
async def engine(directory: Path, kind: str, *formats: int) -> AsyncIterator[FakeEngine]:
    """Serve a fake engine on a socket of its own."""
    fake = FakeEngine(kind, *formats)  # type: ignore[abstract]  # the registry calls only these three
    fake.target = f"unix:{directory}/{kind}.sock"
    server = Server(addresses=[fake.target], drain_seconds=0)
    server.add(engine_grpc.add_EngineServiceServicer_to_server, fake, "beemesh.engine.v1.EngineService")
    async with server:
        yield fake


@asynccontextmanager
async def registry(directory: Path, **overrides: Any) -> AsyncIterator[RegistryServiceStub]:
    """Serve a registry with quick timings, and call it."""
    quick: dict[str, Any] = {
        "lease_min_seconds": 0.2,
        "tick_seconds": 0.02,
        "ask_seconds": 0.2,
        "answer_seconds": 0.3,
        "drain_seconds": 1.0,
    }
    settings = Settings(listen=f"unix:{directory}/registry.sock", data_dir=directory / "data", **(quick | overrides))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, stop))
        try:
            async with connect(settings.listen, files=[pb.DESCRIPTOR]) as channel:
                stub = RegistryServiceStub(channel)
                await stub.GetDefaultEngine(pb.GetDefaultEngineRequest(), timeout=5, wait_for_ready=True)
                yield stub
        finally:
            stop.set()


async def register(stub: RegistryServiceStub, fake: FakeEngine, **fields: Any) -> pb.RegisterEngineResponse:
    """Register a fake engine under its kind's name."""
    request = pb.RegisterEngineRequest(
        **({"engine_id": fake.info.engine, "endpoint": fake.target, "instance_id": "i1"} | fields)
    )
    return await stub.RegisterEngine(request, timeout=5)


async def get(stub: RegistryServiceStub, name: str) -> pb.Engine:
    """One engine."""
    return (await stub.GetEngine(pb.GetEngineRequest(engine_id=name), timeout=5)).engine


async def eventually(found: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], *, within: float = 5.0) -> T:
    """Ask again and again until the answer is as wanted."""
    answer = await found()
    end = time.monotonic() + within
    while not wanted(answer):
        assert time.monotonic() < end, f"not as wanted after {within} s: {answer}"
        await asyncio.sleep(0.01)
        answer = await found()
    return answer


async def becomes(
    stub: RegistryServiceStub, name: str, availability: pb.Engine.Availability.ValueType, *, within: float = 5.0
) -> pb.Engine:
    """Wait until an engine is that available."""
    return await eventually(lambda: get(stub, name), lambda it: it.availability == availability, within=within)


async def listed(stub: RegistryServiceStub, **fields: Any) -> list[str]:
    """The ids of a list."""
    answer = await stub.ListEngines(pb.ListEnginesRequest(**fields), timeout=5)
    return [item.engine_id for item in answer.engines]


async def set_default(stub: RegistryServiceStub, name: str) -> pb.SetDefaultEngineResponse:
    """Choose the default engine."""
    return await stub.SetDefaultEngine(pb.SetDefaultEngineRequest(engine_id=name), timeout=5)


async def refused(call: Awaitable[object]) -> BeemeshError:
    """The domain error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_registered_engine_is_available_once_it_says_so(tmp_path: Path) -> None:
    """A registered engine is known at once, usable once its health came, with its own description in full."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as podman:
        podman.info.backend_version = "4.3.1"
        first = await register(stub, podman, lease_duration=duration(6), priority=3)
        assert first.engine.availability == UNAVAILABLE
        assert first.engine.availability_reason == "HEALTH_UNKNOWN"
        assert first.renew_interval == duration(2)
        found = await becomes(stub, "podman", AVAILABLE)
        assert (found.name, found.endpoint, found.priority) == ("engines/podman", podman.target, 3)
        assert found.info == podman.info
        assert found.health.state == HEALTHY
        assert found.expire_time.ToNanoseconds() > time.time_ns()
        assert abs(found.register_time.ToNanoseconds() - time.time_ns()) < 10e9
        assert (await get(stub, "engines/podman")).engine_id == "podman"


async def test_a_backend_that_falls_ill_is_unavailable_at_once_and_says_why(tmp_path: Path) -> None:
    """A backend that falls ill makes its engine unavailable with the backend's reason; draining is said as such."""
    async with registry(tmp_path, ask_seconds=60) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman)
        await becomes(stub, "podman", AVAILABLE)
        podman.say(UNHEALTHY, "SOCKET_UNREACHABLE")
        found = await becomes(stub, "podman", UNAVAILABLE)
        assert found.availability_reason == "UNHEALTHY:SOCKET_UNREACHABLE"
        podman.say(HEALTHY)
        await becomes(stub, "podman", AVAILABLE)
        podman.say(DRAINING)
        assert (await becomes(stub, "podman", UNAVAILABLE)).availability_reason == "DRAINING"


async def test_an_alias_names_its_engine_and_cannot_be_taken(tmp_path: Path) -> None:
    """`qemu` names libvirt in every call; another engine can take neither the alias nor the id as an alias."""
    async with registry(tmp_path) as stub, engine(tmp_path, "libvirt") as libvirt, engine(tmp_path, "podman") as podman:
        await register(stub, libvirt, aliases=["qemu", "vm"])
        assert (await get(stub, "qemu")).engine_id == "libvirt"
        assert (await set_default(stub, "vm")).default_engine == "libvirt"
        assert await listed(stub, filter="engine_id=qemu") == ["libvirt"]
        for fields in ({"aliases": ["vm"]}, {"aliases": ["libvirt"]}, {"engine_id": "qemu"}):
            error = await refused(register(stub, podman, **fields))
            assert isinstance(error, AlreadyExists)
            assert (error.reason, error.metadata["holder"]) == ("ALIAS_TAKEN", "libvirt")


async def test_the_verbs_of_the_runtime_registry(tmp_path: Path) -> None:
    """register, get_engine (one or none), set_default_engine, check_available_engines (a truth value per engine)."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as podman, engine(tmp_path, "docker") as docker:
        docker.say(UNHEALTHY)
        for fake in (podman, docker):
            await register(stub, fake)
        await becomes(stub, "podman", AVAILABLE)
        assert (await get(stub, "docker")).engine_id == "docker"
        assert isinstance(await refused(get(stub, "rkt")), NotFound)
        await set_default(stub, "podman")
        answer = await stub.CheckAvailableEngines(pb.CheckAvailableEnginesRequest(), timeout=5)
        assert dict(answer.available) == {"podman": True, "docker": False}
        assert answer.default_engine == "podman"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"engine_id": "Podman"}, "BAD_ENGINE_ID"),
        ({"engine_id": ""}, "BAD_ENGINE_ID"),
        ({"engine_id": "a" * 64}, "BAD_ENGINE_ID"),
        ({"aliases": ["a_b"]}, "BAD_ALIASES"),
        ({"aliases": [f"a{n}" for n in range(17)]}, "BAD_ALIASES"),
        ({"instance_id": ""}, "BAD_INSTANCE_ID"),
        ({"endpoint": ""}, "BAD_ENDPOINT"),
        ({"endpoint": "unix:relative"}, "BAD_ENDPOINT"),
        ({"lease_duration": duration(0.1)}, "BAD_DURATION"),
        ({"lease_duration": duration(3601)}, "BAD_DURATION"),
    ],
)
async def test_a_wrong_registration_names_its_field(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    """A wrong registration is INVALID_ARGUMENT with the field in it, and registers nothing."""
    async with registry(tmp_path) as stub:
        request = {"engine_id": "podman", "endpoint": "unix:/x.sock", "instance_id": "i1"} | fields
        error = await refused(stub.RegisterEngine(pb.RegisterEngineRequest(**request), timeout=5))
        assert isinstance(error, InvalidArgument)
        assert (error.reason, error.violations[0].field_path) == (reason, next(iter(fields)))
        assert await listed(stub) == []


async def test_a_lease_that_is_not_renewed_expires_and_a_renewal_heals_it(tmp_path: Path) -> None:
    """An engine that does not renew is unavailable though it is healthy, stays listed, comes back, and is dropped."""
    async with registry(tmp_path, keep_expired_seconds=0.5) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman, lease_duration=duration(0.4))
        await becomes(stub, "podman", AVAILABLE)
        found = await becomes(stub, "podman", UNAVAILABLE)
        assert found.availability_reason == "LEASE_EXPIRED"
        assert found.health.state == HEALTHY
        await register(stub, podman, lease_duration=duration(0.4))
        assert (await get(stub, "podman")).availability == AVAILABLE
        await eventually(lambda: listed(stub), lambda ids: ids == [])
        assert (await refused(get(stub, "podman"))).reason == "ENGINE_NOT_FOUND"


async def test_only_the_instance_that_holds_the_lease_can_unregister(tmp_path: Path) -> None:
    """A new instance takes over; the old one's farewell no longer removes the engine; the holder's does."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman, instance_id="old")
        await register(stub, podman, instance_id="new")

        def unregister(**fields: Any) -> Awaitable[pb.UnregisterEngineResponse]:
            return stub.UnregisterEngine(pb.UnregisterEngineRequest(engine_id="podman", **fields), timeout=5)

        error = await refused(unregister(instance_id="old"))
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "NOT_LEASE_HOLDER"
        await unregister(instance_id="new")
        assert await listed(stub) == []
        assert isinstance(await refused(unregister()), NotFound)
        await unregister(allow_missing=True)


async def test_a_new_instance_at_a_new_place_is_the_one_that_is_asked(tmp_path: Path) -> None:
    """When an engine's process comes back elsewhere, its health is unknown until the new process says it."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as old, engine(tmp_path, "docker") as new:
        await register(stub, old)
        await becomes(stub, "podman", AVAILABLE)
        new.say(UNHEALTHY, "NO_ROOM")
        answer = await register(stub, old, instance_id="i2", endpoint=new.target)
        assert answer.engine.availability_reason == "HEALTH_UNKNOWN"
        await eventually(lambda: get(stub, "podman"), lambda it: it.availability_reason == "UNHEALTHY:NO_ROOM")


async def test_the_default_and_cordons_outlive_the_registry(tmp_path: Path) -> None:
    """Default and cordons are kept over a restart, before the engines are back; an empty id clears the default."""
    async with engine(tmp_path, "podman") as podman:
        async with registry(tmp_path) as stub:
            await register(stub, podman)
            chosen = await set_default(stub, "podman")
            assert (chosen.previous_default_engine, chosen.default_engine) == ("", "podman")
            request = pb.CordonEngineRequest(engine_id="podman", cordoned=True, reason="new disk")
            assert (await stub.CordonEngine(request, timeout=5)).engine.cordoned
        kept = json.loads((tmp_path / "data/choices.json").read_text())
        assert kept == {"default_engine": "podman", "cordons": {"podman": "new disk"}}
        async with registry(tmp_path) as stub:
            answer = await stub.GetDefaultEngine(pb.GetDefaultEngineRequest(), timeout=5)
            assert answer.default_engine == "podman"
            assert (await register(stub, podman)).engine.cordoned
            cleared = await set_default(stub, "")
            assert (cleared.previous_default_engine, cleared.default_engine) == ("podman", "")
        async with registry(tmp_path) as stub:
            answer = await stub.GetDefaultEngine(pb.GetDefaultEngineRequest(), timeout=5)
            assert answer.default_engine == ""


async def test_what_cannot_be_the_default_is_refused(tmp_path: Path) -> None:
    """An unknown engine is NOT_FOUND and mock FAILED_PRECONDITION, by name or by kind; an unavailable one may be it."""
    async with registry(tmp_path) as stub, engine(tmp_path, "mock") as mock, engine(tmp_path, "podman") as podman:
        error = await refused(set_default(stub, "podman"))
        assert isinstance(error, NotFound)
        assert (error.reason, error.metadata) == ("ENGINE_NOT_FOUND", {"engine": "podman"})
        assert (await refused(set_default(stub, "mock"))).reason == "MOCK_NOT_DEFAULT"
        await register(stub, mock, engine_id="trial", aliases=["t"])
        await becomes(stub, "trial", AVAILABLE)
        error = await refused(set_default(stub, "t"))
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "MOCK_NOT_DEFAULT"
        podman.say(UNHEALTHY)
        await register(stub, podman)
        assert (await set_default(stub, "podman")).default_engine == "podman"


async def test_a_choice_that_cannot_be_saved_is_not_made(tmp_path: Path) -> None:
    """When the disk refuses the choice, the caller is told and nothing has changed."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman)
        (tmp_path / "data/choices.json").mkdir()
        error = await refused(set_default(stub, "podman"))
        assert isinstance(error, Unavailable)
        assert error.reason == "CHOICES_NOT_SAVED"
        assert (await stub.GetDefaultEngine(pb.GetDefaultEngineRequest(), timeout=5)).default_engine == ""


async def test_a_cordon_is_a_flag_and_health_stays_health(tmp_path: Path) -> None:
    """A cordoned engine says so and stays as available as its health makes it, until it is uncordoned."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman)
        before = await becomes(stub, "podman", AVAILABLE)
        request = pb.CordonEngineRequest(engine_id="podman", cordoned=True)
        found = (await stub.CordonEngine(request, timeout=5)).engine
        assert found.cordoned
        assert found.availability == AVAILABLE
        assert found.etag != before.etag
        assert await listed(stub, filter="cordoned=true") == ["podman"]
        request = pb.CordonEngineRequest(engine_id="podman", cordoned=False)
        assert not (await stub.CordonEngine(request, timeout=5)).engine.cordoned
        request = pb.CordonEngineRequest(engine_id="nobody", cordoned=True)
        assert (await refused(stub.CordonEngine(request, timeout=5))).reason == "ENGINE_NOT_FOUND"


async def test_a_flapping_engine_is_suspect_until_it_is_calm(tmp_path: Path) -> None:
    """Three changes in a row make an engine SUSPECT; after some calm it is available again by itself."""
    async with registry(tmp_path, flap_calm_seconds=0.5) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman)
        await becomes(stub, "podman", AVAILABLE)
        for _ in range(2):
            podman.say(UNHEALTHY)
            await becomes(stub, "podman", UNAVAILABLE)
            podman.say(HEALTHY)
            found = await eventually(lambda: get(stub, "podman"), lambda it: it.availability != UNAVAILABLE)
        assert found.availability == SUSPECT
        assert found.availability_reason == "FLAPPING"
        answer = await stub.CheckAvailableEngines(pb.CheckAvailableEnginesRequest(), timeout=5)
        assert dict(answer.available) == {"podman": False}
        await becomes(stub, "podman", AVAILABLE)


async def test_a_dead_engine_is_noticed_though_its_lease_runs_on(tmp_path: Path) -> None:
    """An engine whose process is gone is unavailable with WATCH_BROKEN long before its lease ends; it heals."""
    async with registry(tmp_path, ask_seconds=60) as stub:
        async with engine(tmp_path, "podman") as podman:
            await register(stub, podman, lease_duration=duration(600))
            await becomes(stub, "podman", AVAILABLE)
        found = await becomes(stub, "podman", UNAVAILABLE)
        assert found.availability_reason == "WATCH_BROKEN"
        assert found.health.state == engine_pb.ENGINE_HEALTH_STATE_UNSPECIFIED
        async with engine(tmp_path, "podman"):
            await becomes(stub, "podman", AVAILABLE)


async def test_a_frozen_engine_is_noticed_and_delays_no_other(tmp_path: Path) -> None:
    """An engine that stops answering is unavailable soon, heals when it thaws, and no other engine's news waits."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as podman, engine(tmp_path, "docker") as docker:
        for fake in (podman, docker):
            await register(stub, fake, lease_duration=duration(600))
            await becomes(stub, fake.info.engine, AVAILABLE)
        podman.freeze()
        docker.say(UNHEALTHY)
        await becomes(stub, "docker", UNAVAILABLE, within=0.3)
        docker.say(HEALTHY)
        await becomes(stub, "docker", AVAILABLE, within=0.3)
        assert (await becomes(stub, "podman", UNAVAILABLE)).availability_reason == "WATCH_BROKEN"
        podman.freeze(frozen=False)
        await becomes(stub, "podman", AVAILABLE)


async def test_check_available_engines_answers_in_time_though_one_is_frozen(tmp_path: Path) -> None:
    """check_available_engines with a probe answers within the probe's timeout; the frozen engine is false, and why."""
    async with (
        registry(tmp_path, ask_seconds=60) as stub,
        engine(tmp_path, "podman") as podman,
        engine(tmp_path, "docker") as docker,
        engine(tmp_path, "libvirt") as libvirt,
    ):
        for fake in (podman, docker, libvirt):
            await register(stub, fake)
            await becomes(stub, fake.info.engine, AVAILABLE)
        await set_default(stub, "docker")
        podman.freeze()
        request = pb.CheckAvailableEnginesRequest(probe=True, probe_timeout=duration(0.5))
        started = time.monotonic()
        answer = await stub.CheckAvailableEngines(request, timeout=5)
        assert time.monotonic() - started < 0.8
        assert dict(answer.available) == {"podman": False, "docker": True, "libvirt": True}
        reasons = {item.engine_id: item.availability_reason for item in answer.engines}
        assert reasons == {"podman": "PROBE_TIMEOUT", "docker": "", "libvirt": ""}
        assert answer.default_engine == "docker"
        assert docker.probes == libvirt.probes == 1
        cached = await stub.CheckAvailableEngines(pb.CheckAvailableEnginesRequest(), timeout=5)
        assert set(cached.available) == {"podman", "docker", "libvirt"}
        assert docker.probes == 1
        request = pb.CheckAvailableEnginesRequest(probe=True, probe_timeout=duration(31))
        assert (await refused(stub.CheckAvailableEngines(request, timeout=5))).reason == "BAD_DURATION"


async def test_engines_are_listed_best_first(tmp_path: Path) -> None:
    """Available engines come before unavailable ones, then by priority, then by id; mock is last."""
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(registry(tmp_path))
        for kind, priority in (("mock", -5), ("docker", 2), ("podman", 1), ("wasm", 2), ("ill", 0)):
            fake = await stack.enter_async_context(engine(tmp_path, kind, COMPOSE if kind == "docker" else KUBERNETES))
            fake.say(UNHEALTHY if kind == "ill" else HEALTHY)
            await register(stub, fake, priority=priority)
        order = ["podman", "docker", "wasm", "ill", "mock"]
        await eventually(lambda: listed(stub), lambda ids: ids == order)
        await becomes(stub, "mock", AVAILABLE)
        assert await listed(stub, available_only=True) == ["podman", "docker", "wasm", "mock"]
        assert await listed(stub, format=COMPOSE) == ["docker"]
        assert await listed(stub, filter="availability=UNAVAILABLE") == ["ill"]
        assert await listed(stub, filter="availability=AVAILABILITY_AVAILABLE AND engine_id=wasm") == ["wasm"]
        for bad in ("availability=GOOD", "cordoned=maybe", "colour=red"):
            assert (await refused(listed(stub, filter=bad))).reason == "BAD_FILTER"


async def test_pages_hold_each_engine_once_though_ranks_change(tmp_path: Path) -> None:
    """Paging gives every engine exactly once, even when one falls from first to last between two pages."""
    async with registry(tmp_path) as stub:
        for number in range(5):
            request = pb.RegisterEngineRequest(engine_id=f"e{number}", endpoint="unix:/none", instance_id="i1")
            await stub.RegisterEngine(request, timeout=5)
        seen: list[str] = []
        token = ""
        for priority in itertools.count(10):
            page = await stub.ListEngines(pb.ListEnginesRequest(page_size=2, page_token=token), timeout=5)
            seen += [item.engine_id for item in page.engines]
            token = page.next_page_token
            if not token:
                break
            request = pb.RegisterEngineRequest(
                engine_id=seen[0], endpoint="unix:/none", instance_id="i1", priority=priority
            )
            await stub.RegisterEngine(request, timeout=5)
        assert seen == ["e0", "e1", "e2", "e3", "e4"]
        assert (await refused(listed(stub, page_token="%"))).reason == "BAD_PAGE_TOKEN"


async def test_a_watch_tells_everything_once_and_resumes(tmp_path: Path) -> None:
    """A watch gives snapshot, SYNCED, changes with the default, and goes on exactly after its token."""
    async with registry(tmp_path) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman)
        await becomes(stub, "podman", AVAILABLE)
        watch = stub.WatchEngines(pb.WatchEnginesRequest(), timeout=20)
        first, synced = await take(watch, 2)
        assert (first.type, first.engine.engine_id) == (SNAPSHOT, "podman")
        assert (synced.type, synced.default_engine) == (SYNCED, "")
        await set_default(stub, "podman")
        (chosen,) = await take(watch, 1)
        assert (chosen.type, chosen.default_engine) == (BOOKMARK, "podman")
        assert not chosen.HasField("engine")
        podman.say(UNHEALTHY)
        change = await until(watch, lambda message: message.engine.availability == UNAVAILABLE)
        assert (change.type, change.default_engine) == (UPDATED, "podman")
        watch.cancel()
        await stub.UnregisterEngine(pb.UnregisterEngineRequest(engine_id="podman"), timeout=5)
        resumed = stub.WatchEngines(pb.WatchEnginesRequest(resume_token=change.resume_token), timeout=20)
        gone = await until(resumed, lambda message: message.type == REMOVED)
        assert gone.engine.engine_id == "podman"
        assert (await take(resumed, 1))[0].type == SYNCED
        resumed.cancel()


async def test_renewals_and_probes_without_news_are_no_events(tmp_path: Path) -> None:
    """A watch stays silent while engines only renew their leases and repeat their health."""
    async with registry(tmp_path, bookmark_seconds=0.6, ask_seconds=0.05) as stub, engine(tmp_path, "podman") as podman:
        await register(stub, podman)
        await becomes(stub, "podman", AVAILABLE)
        watch = stub.WatchEngines(pb.WatchEnginesRequest(), timeout=20)
        await take(watch, 2)
        before = await get(stub, "podman")
        await register(stub, podman)
        after = await get(stub, "podman")
        assert after.expire_time.ToNanoseconds() > before.expire_time.ToNanoseconds()
        assert after.etag == before.etag
        assert (await take(watch, 1))[0].type == BOOKMARK
        watch.cancel()


async def test_a_token_of_an_earlier_run_is_out_of_range(tmp_path: Path) -> None:
    """After a restart of the registry a watch must begin anew; a stopping registry ends its watches at once."""
    async with registry(tmp_path, drain_seconds=30) as stub:
        watch = stub.WatchEngines(pb.WatchEnginesRequest(), timeout=20)
        token = (await take(watch, 1))[0].resume_token
        pending = asyncio.ensure_future(refused(take(watch, 1)))
        await asyncio.sleep(0)
        started = time.monotonic()
    assert (await pending).reason == "SERVICE_STOPPING"
    assert time.monotonic() - started < 5
    async with registry(tmp_path) as stub:
        error = await refused(take(stub.WatchEngines(pb.WatchEnginesRequest(resume_token=token), timeout=5), 1))
        assert isinstance(error, OutOfRange)


async def take(watch: Any, count: int) -> list[pb.WatchEnginesResponse]:
    """The next messages of a watch."""
    return [await watch.read() for _ in range(count)]


async def until(watch: Any, wanted: Callable[[pb.WatchEnginesResponse], bool]) -> pb.WatchEnginesResponse:
    """The first message of a watch that is wanted."""
    while not wanted(message := (await take(watch, 1))[0]):
        pass
    return message
