"""The registry's core: leases, names, damping, default, cordons and the order of preference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.errors import (
    AlreadyExists,
    BeemeshError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.registry.directory import (
    WATCH_BROKEN,
    Availability,
    Choices,
    Directory,
    Health,
    HealthState,
    Info,
    Registration,
    Timings,
    View,
)

AVAILABLE, UNAVAILABLE, SUSPECT = Availability.AVAILABLE, Availability.UNAVAILABLE, Availability.SUSPECT
HEALTHY = Health(state=HealthState.HEALTHY)
UNHEALTHY = Health(state=HealthState.UNHEALTHY, reason="SOCKET_UNREACHABLE")


def a_directory(**timings: Any) -> Directory:
    """An empty directory with the timings of production."""
    return Directory(timings=Timings(**timings), choices=Choices())


def registration(engine_id: str = "podman", **fields: Any) -> Registration:
    """What an engine says when it registers."""
    defaults = {"endpoint": f"unix:/run/{engine_id}.sock", "instance_id": "i1", "lease": 15.0}
    return Registration(**{"engine_id": engine_id, **defaults, **fields})


def info(kind: str) -> Info:
    """Who an engine says it is."""
    return Info(engine=kind, formats=frozenset({1}), encoded=b"")


def seen(directory: Directory, now: float, name: str = "podman") -> tuple[Availability, str]:
    """How available an engine is, and why."""
    view = directory.get(name, now=now)
    return view.availability, view.reason


@pytest.mark.parametrize(
    ("health", "availability", "reason"),
    [
        (HEALTHY, AVAILABLE, ""),
        (UNHEALTHY, UNAVAILABLE, "UNHEALTHY:SOCKET_UNREACHABLE"),
        (Health(state=HealthState.UNHEALTHY), UNAVAILABLE, "UNHEALTHY"),
        (Health(state=HealthState.UNDETECTED, reason="NOT_INSTALLED"), UNAVAILABLE, "UNDETECTED:NOT_INSTALLED"),
        (Health(state=HealthState.DRAINING, reason="ADMIN"), UNAVAILABLE, "DRAINING"),
        (WATCH_BROKEN, UNAVAILABLE, "WATCH_BROKEN"),
    ],
)
def test_availability_follows_health_at_once(health: Health, availability: Availability, reason: str) -> None:
    """An engine is unknown until its health came, then what its health makes it, with the reason."""
    directory = a_directory()
    directory.register(registration(), now=0)
    assert seen(directory, 0) == (UNAVAILABLE, "HEALTH_UNKNOWN")
    directory.see_health("podman", "i1", health, now=1)
    assert seen(directory, 1) == (availability, reason)


def test_a_lease_ends_at_its_second_and_a_renewal_begins_it_anew() -> None:
    """Available until the lease ends, unavailable from then on, available again when renewed, gone after long."""
    directory = a_directory(keep_expired=600)
    directory.register(registration(lease=15), now=0)
    directory.see_health("podman", "i1", HEALTHY, now=1)
    assert seen(directory, 14.9) == (AVAILABLE, "")
    assert seen(directory, 15) == (UNAVAILABLE, "LEASE_EXPIRED")
    assert directory.register(registration(lease=20), now=100).availability is AVAILABLE
    assert seen(directory, 119.9) == (AVAILABLE, "")
    assert seen(directory, 719.9) == (UNAVAILABLE, "LEASE_EXPIRED")
    with pytest.raises(NotFound):
        directory.get("podman", now=720)


def test_a_renewal_keeps_the_time_of_registration_and_a_new_instance_does_not() -> None:
    """register_time is when this instance first came; expire_time moves with each renewal."""
    directory = a_directory()
    first = directory.register(registration(), now=5)
    renewed = directory.register(registration(), now=10)
    assert (first.register_time, first.expire_time) == (5, 20)
    assert (renewed.register_time, renewed.expire_time) == (5, 25)
    assert first == renewed
    assert directory.register(registration(instance_id="i2"), now=11).register_time == 11


def test_a_new_instance_takes_over_and_the_old_one_is_no_longer_heard() -> None:
    """After a takeover health is unknown until the new instance says it; what the old one says does not count."""
    directory = a_directory()
    directory.register(registration(), now=0)
    directory.see_health("podman", "i1", HEALTHY, now=0)
    directory.register(registration(instance_id="i2", endpoint="unix:/new.sock"), now=1)
    directory.see_health("podman", "i1", HEALTHY, now=2)
    directory.see_info("podman", "i1", info("podman"), now=2)
    view = directory.get("podman", now=2)
    assert (view.availability, view.reason, view.info) == (UNAVAILABLE, "HEALTH_UNKNOWN", None)
    assert view.registration.endpoint == "unix:/new.sock"
    directory.see_health("podman", "i2", HEALTHY, now=3)
    assert seen(directory, 3) == (AVAILABLE, "")


def flap(directory: Directory, *times: float) -> None:
    """Change health at each of these times, beginning with UNHEALTHY."""
    for number, now in enumerate(times):
        directory.register(registration(), now=now)
        directory.see_health("podman", "i1", HEALTHY if number % 2 else UNHEALTHY, now=now)


def test_three_changes_within_a_minute_make_an_engine_suspect_until_it_is_calm() -> None:
    """Two changes are forgiven, the third makes it SUSPECT while it is healthy, and 30 calm seconds clear it."""
    directory = a_directory()
    directory.register(registration(lease=600), now=0)
    directory.see_health("podman", "i1", HEALTHY, now=0)
    flap(directory, 10, 11)
    assert seen(directory, 11) == (AVAILABLE, "")
    flap(directory, 12)
    assert seen(directory, 12) == (UNAVAILABLE, "UNHEALTHY:SOCKET_UNREACHABLE")
    directory.register(registration(lease=600), now=13)
    directory.see_health("podman", "i1", HEALTHY, now=13)
    assert seen(directory, 13) == (SUSPECT, "FLAPPING")
    assert seen(directory, 42.9) == (SUSPECT, "FLAPPING")
    assert seen(directory, 43) == (AVAILABLE, "")
    flap(directory, 44, 45)
    assert seen(directory, 45) == (AVAILABLE, "")


def test_changes_spread_over_more_than_the_window_are_no_flapping() -> None:
    """Three changes of which the first is older than the window do not make an engine suspect."""
    directory = a_directory(flap_window=20, calm=15)
    directory.register(registration(), now=0)
    directory.see_health("podman", "i1", HEALTHY, now=0)
    flap(directory, 0, 10, 20.5, 22)
    assert seen(directory, 22)[0] is SUSPECT
    directory = a_directory(flap_window=20, calm=15)
    directory.register(registration(), now=0)
    directory.see_health("podman", "i1", HEALTHY, now=0)
    flap(directory, 0, 10, 20.5)
    directory.see_health("podman", "i1", HEALTHY, now=31)
    assert seen(directory, 31)[0] is AVAILABLE


def test_getting_well_for_the_first_time_is_no_flapping() -> None:
    """However long an engine needs to come up, its first healthy moment is taken at its word."""
    directory = a_directory()
    directory.register(registration(), now=0)
    for now, health in enumerate((WATCH_BROKEN, UNHEALTHY, WATCH_BROKEN, UNHEALTHY, HEALTHY)):
        directory.see_health("podman", "i1", health, now=now)
    assert seen(directory, 5) == (AVAILABLE, "")


def test_names_are_one_space() -> None:
    """No alias may be another's id or alias, no id another's alias; one's own id as alias is dropped, repeats too."""
    directory = a_directory()
    view = directory.register(registration("libvirt", aliases=("vm", "qemu", "vm", "libvirt")), now=0)
    assert view.registration.aliases == ("qemu", "vm")
    for wrong in (registration(aliases=("qemu",)), registration(aliases=("libvirt",)), registration("qemu")):
        with pytest.raises(AlreadyExists) as caught:
            directory.register(wrong, now=0)
        assert caught.value.reason == "ALIAS_TAKEN"
    directory.register(registration("libvirt", aliases=("vm",)), now=0)
    directory.register(registration("podman", aliases=("qemu",)), now=0)
    assert directory.get("qemu", now=0).engine_id == "podman"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"engine_id": text}, "BAD_ENGINE_ID")
        for text in ("", "-a", "a-", "A", "a.b", "a_b", "ä", "a" * 64, "a\n", "engines/a")
    ]
    + [({"aliases": (text,)}, "BAD_ALIASES") for text in ("", "A", "a b")]
    + [({"endpoint": text}, "BAD_ENDPOINT") for text in ("", "unix:", "unix:x", "host", "a b:1", "unix:/" + "x" * 300)]
    + [({"instance_id": text}, "BAD_INSTANCE_ID") for text in ("", "x" * 257)],
)
def test_a_registration_is_checked(fields: dict[str, Any], reason: str) -> None:
    """A wrong field is refused by name, and nothing is registered."""
    directory = a_directory()
    with pytest.raises(InvalidArgument) as caught:
        directory.register(registration(**fields), now=0)
    assert (caught.value.reason, caught.value.violations[0].field_path) == (reason, next(iter(fields)))
    assert directory.views(now=0) == []


@pytest.mark.parametrize(
    "endpoint", ["unix:/run/x.sock", "unix:///run/x.sock", "127.0.0.1:1", "dns:///host:1", "[::1]:80"]
)
def test_the_targets_of_grpc_are_endpoints(endpoint: str) -> None:
    """Unix sockets, addresses and names with a port are accepted as they are."""
    view = a_directory().register(registration(endpoint=endpoint), now=0)
    assert view.registration.endpoint == endpoint


def test_there_is_room_for_so_many_engines() -> None:
    """One more than the limit is refused; a renewal and, once one has gone, a new one are not."""
    directory = a_directory(max_engines=2)
    directory.register(registration("a"), now=0)
    directory.register(registration("b"), now=0)
    with pytest.raises(ResourceExhausted) as caught:
        directory.register(registration("c"), now=0)
    assert caught.value.reason == "TOO_MANY_ENGINES"
    directory.register(registration("b"), now=1)
    directory.unregister("a", instance_id="", allow_missing=False, now=1)
    directory.register(registration("c"), now=1)


def test_the_best_come_first() -> None:
    """Available, suspect, unavailable; then lower priority; then id; what is mock is last whatever its name."""
    directory = a_directory()
    for engine_id, priority, health in (
        ("b", 1, HEALTHY),
        ("a", 1, HEALTHY),
        ("z", 0, HEALTHY),
        ("ill", -9, UNHEALTHY),
        ("mock", -9, HEALTHY),
        ("trial", -9, HEALTHY),
        ("podman", -9, HEALTHY),
    ):
        directory.register(registration(engine_id, priority=priority), now=0)
        directory.see_health(engine_id, "i1", health, now=0)
    directory.see_info("trial", "i1", info("mock"), now=0)
    for now, health in ((1, UNHEALTHY), (2, HEALTHY), (3, UNHEALTHY), (4, HEALTHY)):
        directory.see_health("podman", "i1", health, now=now)
    order = [view.engine_id for view in directory.views(now=4)]
    assert order == ["z", "a", "b", "podman", "ill", "mock", "trial"]


def test_the_default_is_an_engine_that_is_registered_and_not_mock() -> None:
    """An alias chooses its engine, also while that is unavailable; the unknown and mock are refused; empty clears."""
    directory = a_directory()
    directory.register(registration("libvirt", aliases=("qemu",)), now=0)
    directory.choices = directory.with_default("qemu", now=0)
    assert directory.choices.default_engine == "libvirt"
    with pytest.raises(NotFound) as caught:
        directory.with_default("nobody", now=0)
    assert "known: libvirt" in caught.value.message
    with pytest.raises(FailedPrecondition):
        directory.with_default("mock", now=0)
    assert directory.choices.default_engine == "libvirt"
    directory.unregister("libvirt", instance_id="", allow_missing=False, now=1)
    assert directory.choices.default_engine == "libvirt"
    assert directory.with_default("", now=1).default_engine == ""


def test_a_cordon_is_kept_with_its_reason_while_the_engine_comes_and_goes() -> None:
    """A cordon belongs to the engine's id: it outlives leases and instances, and does not touch availability."""
    directory = a_directory()
    directory.register(registration(aliases=("pod",)), now=0)
    directory.see_health("podman", "i1", HEALTHY, now=0)
    directory.choices = directory.with_cordon("pod", cordoned=True, reason="new disk", now=0)
    assert directory.choices.cordons == {"podman": "new disk"}
    view = directory.get("podman", now=0)
    assert (view.cordoned, view.availability) == (True, AVAILABLE)
    directory.unregister("podman", instance_id="", allow_missing=False, now=1)
    assert directory.register(registration(instance_id="i2"), now=2).cordoned
    directory.choices = directory.with_cordon("podman", cordoned=False, reason="", now=3)
    assert not directory.get("podman", now=3).cordoned
    with pytest.raises(InvalidArgument):
        directory.with_cordon("podman", cordoned=True, reason="x" * 501, now=3)


IDS = st.sampled_from(["a", "b", "mock"])
NAMES = st.sampled_from(["a", "b", "mock", "x", "y"])
INSTANCES = st.sampled_from(["i1", "i2"])
HEALTHS = st.sampled_from([HEALTHY, UNHEALTHY, WATCH_BROKEN])


class DirectoryMachine(RuleBasedStateMachine):
    """Engines that come, go, fall ill and take each other's names, against plain dicts and lists."""

    def __init__(self) -> None:
        super().__init__()
        self.timings = Timings(flap_transitions=3, flap_window=60, calm=30, keep_expired=100, max_engines=2)
        self.directory = Directory(timings=self.timings, choices=Choices())
        self.now = 0.0
        self.engines: dict[str, dict[str, Any]] = {}
        self.default = ""
        self.cordons: set[str] = set()

    def holder(self, name: str) -> str:
        return next((e for e, it in self.engines.items() if name == e or name in it["aliases"]), "")

    @rule(engine_id=IDS, instance=INSTANCES, lease=st.sampled_from([10, 200]), aliases=st.sets(NAMES, max_size=2))
    def register(self, engine_id: str, instance: str, lease: int, aliases: set[str]) -> None:
        wanted = registration(engine_id, instance_id=instance, lease=lease, aliases=tuple(aliases))
        expected: type[BeemeshError] | None = None
        if any(self.holder(name) not in ("", engine_id) for name in {engine_id, *aliases}):
            expected = AlreadyExists
        elif engine_id not in self.engines and len(self.engines) == self.timings.max_engines:
            expected = ResourceExhausted
        if expected is not None:
            with pytest.raises(expected):
                self.directory.register(wanted, now=self.now)
            return
        self.directory.register(wanted, now=self.now)
        known = self.engines.setdefault(engine_id, {"health": "HEALTH_UNKNOWN", "instance": instance, "history": []})
        if known["instance"] != instance:
            known["health"] = "HEALTH_UNKNOWN"
        known |= {"instance": instance, "ends": self.now + lease, "aliases": aliases - {engine_id}}

    @rule(name=NAMES, instance=st.sampled_from(["", "i1", "i2"]), allow_missing=st.booleans())
    def unregister(self, name: str, instance: str, allow_missing: bool) -> None:
        def call() -> bool:
            return self.directory.unregister(name, instance_id=instance, allow_missing=allow_missing, now=self.now)

        engine_id = self.holder(name)
        if not engine_id and not allow_missing:
            with pytest.raises(NotFound):
                call()
        elif engine_id and instance not in ("", self.engines[engine_id]["instance"]):
            with pytest.raises(FailedPrecondition):
                call()
        else:
            assert call() == bool(engine_id)
            self.engines.pop(engine_id, None)

    @rule(engine_id=IDS, instance=INSTANCES, health=HEALTHS)
    def see_health(self, engine_id: str, instance: str, health: Health) -> None:
        self.directory.see_health(engine_id, instance, health, now=self.now)
        known = self.engines.get(engine_id)
        if known is not None and known["instance"] == instance:
            well, ill = health is HEALTHY, health is UNHEALTHY
            known["health"] = "" if well else "UNHEALTHY:SOCKET_UNREACHABLE" if ill else "WATCH_BROKEN"

    @precondition(lambda self: self.engines)
    @rule(data=st.data(), times=st.integers(1, 5), seconds=st.sampled_from([0, 1, 20, 30]))
    def change_again_and_again(self, data: st.DataObject, times: int, seconds: float) -> None:
        engine_id = data.draw(st.sampled_from(sorted(self.engines)))
        for _ in range(times):
            known = self.engines[engine_id]
            self.see_health(engine_id, known["instance"], HEALTHY if known["health"] else UNHEALTHY)
            self.agrees_with_the_model()
            self.time_passes(seconds)
            self.agrees_with_the_model()
            if engine_id not in self.engines:
                break

    @rule(name=NAMES)
    def set_default(self, name: str) -> None:
        engine_id = self.holder(name)
        if "mock" in (name, engine_id):
            with pytest.raises(FailedPrecondition):
                self.directory.with_default(name, now=self.now)
        elif not engine_id:
            with pytest.raises(NotFound):
                self.directory.with_default(name, now=self.now)
        else:
            self.directory.choices = self.directory.with_default(name, now=self.now)
            self.default = engine_id

    @precondition(lambda self: self.engines)
    @rule(data=st.data(), cordoned=st.booleans())
    def cordon(self, data: st.DataObject, cordoned: bool) -> None:
        engine_id = data.draw(st.sampled_from(sorted(self.engines)))
        self.directory.choices = self.directory.with_cordon(engine_id, cordoned=cordoned, reason="", now=self.now)
        (self.cordons.add if cordoned else self.cordons.discard)(engine_id)

    @rule(seconds=st.sampled_from([0.5, 4, 9, 30, 120]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.engines = {e: it for e, it in self.engines.items() if self.now < it["ends"] + 100}

    @invariant()
    def agrees_with_the_model(self) -> None:
        views = {view.engine_id: view for view in self.directory.views(now=self.now)}
        assert views.keys() == self.engines.keys()
        assert self.directory.choices.default_engine == self.default
        for engine_id, known in self.engines.items():
            fault = "LEASE_EXPIRED" if self.now >= known["ends"] else known["health"]
            suspect = self.flaps(known["history"], usable=not fault)
            self.check(views[engine_id], fault or ("FLAPPING" if suspect else ""), suspect)
            assert views[engine_id].cordoned == (engine_id in self.cordons)
            for name in (engine_id, *known["aliases"]):
                assert self.directory.get(name, now=self.now) == views[engine_id]

    def check(self, view: View, reason: str, suspect: bool) -> None:
        expected = AVAILABLE if not reason else SUSPECT if suspect and reason == "FLAPPING" else UNAVAILABLE
        assert (view.availability, view.reason) == (expected, reason)

    def flaps(self, history: list[tuple[float, bool]], *, usable: bool) -> bool:
        """Keep the whole history of changes, and read from it whether the engine flaps."""
        if (history[-1][1] if history else False) != usable:
            history.append((self.now, usable))
        flapping, run = False, list[float]()
        for at in [at for at, _usable in history[1:]]:
            if run and at - run[-1] >= 30:
                flapping, run = False, []
            run.append(at)
            flapping = flapping or (len(run) >= 3 and run[-1] - run[-3] <= 60)
        return flapping and self.now - run[-1] < 30


TestDirectoryMachine = DirectoryMachine.TestCase
TestDirectoryMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
