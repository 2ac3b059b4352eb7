"""Probes: what the manifest says, and what results mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.engines.probes import (
    Exec,
    Finding,
    Grpc,
    Handler,
    HttpGet,
    Kind,
    Probe,
    Probes,
    Restart,
    Standing,
    TcpSocket,
    Track,
    handler_of,
    probes_of,
)
from services.errors import InvalidArgument

OK = Finding(ok=True)
BAD = Finding(ok=False, message="connection refused")
UNKNOWN = Finding(ok=None, message="the backend does not answer")

HANDLER = TcpSocket(port=80)


def run(track: Track, kind: Kind, finding: Finding, *, now: float | None = None) -> Restart | None:
    """Run the probe when it is due (or at `now`), in no time."""
    due = track.due(kind)
    assert due is not None
    at = due if now is None else now
    track.begin(kind, at)
    return track.result(kind, finding, at)


# What the manifest says


def test_what_is_not_said_has_kubernetes_defaults() -> None:
    """Period 10, timeout 1, one success, three failures, no delay; a zero means the default."""
    said: dict[str, Any] = {"tcpSocket": {"port": 80}}
    zeros = dict.fromkeys(("periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold"), 0)
    expected = Probe(handler=HANDLER, initial_delay=0, period=10, timeout=1, success_threshold=1, failure_threshold=3)
    assert probes_of({"livenessProbe": said}) == Probes(liveness=expected)
    assert probes_of({"livenessProbe": said | zeros}) == Probes(liveness=expected)


def test_every_number_of_a_probe_is_read() -> None:
    """Each field lands in its own place."""
    raw = {
        "exec": {"command": ["cat", "/ok"]},
        "initialDelaySeconds": 5,
        "periodSeconds": 7,
        "timeoutSeconds": 2,
        "failureThreshold": 4,
    }
    probes = probes_of(
        {
            "startupProbe": raw | {"terminationGracePeriodSeconds": 9},
            "readinessProbe": raw | {"successThreshold": 3},
        }
    )
    assert probes.liveness is None
    assert probes.startup == Probe(
        handler=Exec(command=("cat", "/ok")),
        initial_delay=5,
        period=7,
        timeout=2,
        failure_threshold=4,
        grace_seconds=9,
    )
    assert probes.readiness is not None
    assert probes.readiness.success_threshold == 3
    assert [probes.of(kind) for kind in Kind] == [probes.startup, None, probes.readiness]


def test_a_container_without_probes_has_none() -> None:
    """Nothing to run."""
    assert not probes_of({"name": "web"})
    assert probes_of({"livenessProbe": {"tcpSocket": {"port": 1}}})


@pytest.mark.parametrize(
    ("action", "handler"),
    [
        ({"exec": {"command": ["true"]}}, Exec(command=("true",))),
        ({"httpGet": {"port": 80}}, HttpGet(port=80)),
        (
            {
                "httpGet": {
                    "port": "web",
                    "host": "example.org",
                    "path": "/healthz?full=1",
                    "scheme": "HTTPS",
                    "httpHeaders": [{"name": "X-Probe", "value": "1"}, {"name": "X-Probe", "value": "2"}],
                }
            },
            HttpGet(
                port=8080,
                host="example.org",
                path="/healthz?full=1",
                scheme="HTTPS",
                headers=(("X-Probe", "1"), ("X-Probe", "2")),
            ),
        ),
        ({"tcpSocket": {"port": "web", "host": "10.0.0.1"}}, TcpSocket(port=8080, host="10.0.0.1")),
        ({"tcpSocket": {"port": "5432"}}, TcpSocket(port=5432)),
        ({"grpc": {"port": 9090}}, Grpc(port=9090)),
        ({"grpc": {"port": 9090, "service": "shop"}}, Grpc(port=9090, service="shop")),
    ],
)
def test_each_handler_is_read(action: dict[str, Any], handler: Handler) -> None:
    """A port's name is looked up among the container's ports; a number in quotes is a number."""
    container = {"ports": [{"containerPort": 1}, {"name": "web", "containerPort": 8080, "hostPort": 80}]}
    assert handler_of(container, action, path="livenessProbe") == handler


@pytest.mark.parametrize(
    ("container", "path", "reason"),
    [
        ({"livenessProbe": {"httpGet": {"port": "web"}}}, "livenessProbe.httpGet.port", "UNKNOWN_PORT"),
        ({"startupProbe": {"tcpSocket": {"port": "web"}}}, "startupProbe.tcpSocket.port", "UNKNOWN_PORT"),
        ({"readinessProbe": {"periodSeconds": 1}}, "readinessProbe", "MANIFEST_INVALID"),
        ({"readinessProbe": {"exec": {"command": []}}}, "readinessProbe", "MANIFEST_INVALID"),
        (
            {"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}},
            "livenessProbe.successThreshold",
            "MANIFEST_INVALID",
        ),
        (
            {"startupProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}},
            "startupProbe.successThreshold",
            "MANIFEST_INVALID",
        ),
        (
            {"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 2}},
            "readinessProbe.terminationGracePeriodSeconds",
            "MANIFEST_INVALID",
        ),
    ],
)
def test_what_kubernetes_refuses_is_refused_by_its_path(container: dict[str, Any], path: str, reason: str) -> None:
    """The path begins at the container."""
    with pytest.raises(InvalidArgument) as caught:
        probes_of(container)
    assert caught.value.reason == reason
    assert [violation.field_path for violation in caught.value.violations] == [path]


# What results mean


def test_without_probes_a_running_container_is_started_and_ready() -> None:
    """At once, until it stops."""
    track = Track(Probes(), started_at=0)
    assert track.standing == Standing(ready=True, started=True)
    assert [track.due(kind) for kind in Kind] == [None, None, None]
    track.stop()
    assert track.standing == Standing(ready=False, started=False)


def test_liveness_and_readiness_wait_for_startup() -> None:
    """They are due once it has succeeded, which ends it."""
    probe = Probe(handler=HANDLER, period=5)
    track = Track(Probes(startup=probe, liveness=probe, readiness=probe), started_at=100)
    assert [track.due(kind) for kind in Kind] == [100, None, None]
    assert run(track, Kind.STARTUP, BAD) is None
    assert [track.due(kind) for kind in Kind] == [105, None, None]
    assert not track.standing.started
    assert run(track, Kind.STARTUP, OK) is None
    assert [track.due(kind) for kind in Kind] == [None, 100, 100]
    assert track.standing == Standing(ready=False, started=True)


def test_a_container_that_is_started_is_ready_when_it_has_no_readiness_probe() -> None:
    """Startup alone decides."""
    track = Track(Probes(startup=Probe(handler=HANDLER), liveness=Probe(handler=HANDLER)), started_at=0)
    assert not track.standing.ready
    run(track, Kind.STARTUP, OK)
    assert track.standing.ready


def test_readiness_needs_its_successes_and_its_failures_in_a_row() -> None:
    """Anything between them begins the count anew; a readiness probe restarts nothing."""
    track = Track(Probes(readiness=Probe(handler=HANDLER, success_threshold=2, failure_threshold=3)), started_at=0)
    seen = []
    for finding in (OK, BAD, OK, OK, BAD, BAD, OK, BAD, BAD, BAD, OK, OK):
        assert run(track, Kind.READINESS, finding) is None
        seen.append(track.standing.ready)
    assert seen == [ready == "+" for ready in "---++++++--+"]


@pytest.mark.parametrize("kind", [Kind.STARTUP, Kind.LIVENESS])
def test_the_last_failure_in_a_row_restarts_the_container(kind: Kind) -> None:
    """With the reason, the last message and the probe's own grace period; the probe is not due again."""
    probe = Probe(handler=HANDLER, failure_threshold=2, grace_seconds=7)
    track = Track(Probes(**{kind.value.lower(): probe}), started_at=0)
    assert run(track, kind, BAD) is None
    assert run(track, kind, BAD) == Restart(
        reason=f"{kind}ProbeFailed", message=f"{kind} probe failed: connection refused", grace_seconds=7
    )
    assert track.due(kind) is None


def test_readiness_goes_on_while_the_container_is_being_stopped() -> None:
    """So that it can still become unready."""
    probe = Probe(handler=HANDLER, failure_threshold=1)
    track = Track(Probes(liveness=probe, readiness=probe), started_at=0)
    run(track, Kind.READINESS, OK)
    assert run(track, Kind.LIVENESS, BAD) is not None
    assert track.standing.ready
    run(track, Kind.READINESS, BAD)
    assert not track.standing.ready


def test_a_probe_that_could_not_be_run_says_nothing() -> None:
    """It counts neither as failure nor as success, nor does it break a row; the reason is told."""
    track = Track(Probes(liveness=Probe(handler=HANDLER, failure_threshold=2)), started_at=0)
    assert run(track, Kind.LIVENESS, BAD) is None
    for _ in range(10):
        assert run(track, Kind.LIVENESS, UNKNOWN) is None
    assert track.standing.message == "Liveness probe: the backend does not answer"
    assert run(track, Kind.LIVENESS, BAD) is not None


def test_the_message_is_that_of_the_probe_that_fails() -> None:
    """Another probe's success does not hide it; its own does; a long one is cut."""
    probe = Probe(handler=HANDLER)
    track = Track(Probes(liveness=probe, readiness=probe), started_at=0)
    run(track, Kind.LIVENESS, Finding(ok=False, message="x" * 5000))
    run(track, Kind.READINESS, OK)
    assert track.standing.message.startswith("Liveness probe: xxx")
    assert len(track.standing.message) == 1024
    run(track, Kind.LIVENESS, OK)
    assert track.standing.message == ""


def test_the_initial_delay_counts_from_the_containers_start() -> None:
    """Also for the probes that waited for startup: they are not delayed twice."""
    track = Track(
        Probes(
            startup=Probe(handler=HANDLER),
            liveness=Probe(handler=HANDLER, initial_delay=30),
            readiness=Probe(handler=HANDLER, initial_delay=5),
        ),
        started_at=100,
    )
    run(track, Kind.STARTUP, OK, now=120)
    assert (track.due(Kind.LIVENESS), track.due(Kind.READINESS)) == (130, 105)


def test_probes_keep_their_beat_and_leave_out_what_a_slow_one_missed() -> None:
    """They do not drift, and they do not catch up."""
    track = Track(Probes(liveness=Probe(handler=HANDLER, period=10)), started_at=0)
    beats = []
    for took in (0, 3, 9, 11, 25, 0):
        due = track.due(Kind.LIVENESS)
        assert due is not None
        beats.append(due)
        track.begin(Kind.LIVENESS, due)
        assert track.due(Kind.LIVENESS) is None
        track.result(Kind.LIVENESS, OK, due + took)
    assert beats == [0, 10, 20, 30, 50, 80]


def test_a_container_found_running_is_probed_at_once_and_then_on_its_own_beat() -> None:
    """Two results within half a period would count a single hiccup twice."""
    for now, then in ((1003.0, 1010.0), (1009.0, 1020.0)):
        track = Track(Probes(liveness=Probe(handler=HANDLER, period=10)), started_at=0)
        run(track, Kind.LIVENESS, OK, now=now)
        assert track.due(Kind.LIVENESS) == then


def test_a_container_followed_before_goes_on_as_it_stood() -> None:
    """It is not unready, and not started anew, because we were restarted."""
    probe = Probe(handler=HANDLER)
    probes = Probes(startup=probe, liveness=probe, readiness=probe)
    track = Track(probes, started_at=0, standing=Standing(ready=True, started=True))
    assert track.standing.ready
    assert [track.due(kind) for kind in Kind] == [None, 0, 0]


def test_a_result_that_comes_after_the_stop_is_void() -> None:
    """The container it speaks of is gone."""
    track = Track(Probes(liveness=Probe(handler=HANDLER, failure_threshold=1)), started_at=0)
    track.begin(Kind.LIVENESS, 0)
    track.stop()
    assert track.result(Kind.LIVENESS, BAD, 1) is None
    assert track.standing == Standing()


class TrackAgainstModel(RuleBasedStateMachine):
    """A track against a model that keeps every result and looks at the last few."""

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        number = st.integers(1, 3)
        probe = st.builds(
            Probe,
            handler=st.just(HANDLER),
            initial_delay=st.integers(0, 30),
            period=st.integers(1, 20),
            failure_threshold=number,
            success_threshold=st.just(1),
        )
        ready = st.builds(
            Probe,
            handler=st.just(HANDLER),
            period=st.integers(1, 20),
            failure_threshold=number,
            success_threshold=number,
        )
        draw = data.draw(st.tuples(st.none() | probe, st.none() | probe, st.none() | ready), label="probes")
        self.probes = dict(zip(Kind, draw, strict=True))
        self.track = Track(Probes(startup=draw[0], liveness=draw[1], readiness=draw[2]), started_at=0)
        self.now = 0
        self.results: dict[Kind, list[bool]] = {kind: [] for kind in Kind}
        self.last: dict[Kind, tuple[int, int]] = {}
        self.running = True

    def passed(self, kind: Kind, *, at_first: bool) -> bool:
        """What the results so far, oldest first, have made of this probe."""
        probe = self.probes[kind]
        if probe is None:
            return True
        state = at_first
        for end in range(1, len(self.results[kind]) + 1):
            seen = self.results[kind][:end]
            for value, threshold in ((True, probe.success_threshold), (False, probe.failure_threshold)):
                if len(seen) >= threshold and all(result is value for result in seen[-threshold:]):
                    state = value
        return state

    def expected_due(self, kind: Kind) -> float | None:
        """When the probe comes next, by walking its ticks."""
        probe, startup = self.probes[kind], self.probes[Kind.STARTUP]
        if probe is None or not self.running:
            return None
        started = self.passed(Kind.STARTUP, at_first=False)
        if kind is Kind.STARTUP:
            failed = self.results[kind][-probe.failure_threshold :] == [False] * probe.failure_threshold
            if started or failed:
                return None
        elif startup is not None and not started:
            return None
        if kind is Kind.LIVENESS and not self.passed(kind, at_first=True):
            return None
        tick = probe.initial_delay
        if kind in self.last:
            begun, ended = self.last[kind]
            while tick <= ended or tick <= begun + probe.period / 2:
                tick += probe.period
        return tick

    @precondition(lambda self: self.running)
    @rule(
        kind=st.sampled_from(Kind),
        ok=st.sampled_from([True, False, None]),
        late=st.integers(0, 15),
        took=st.integers(0, 40),
    )
    def probe(self, kind: Kind, ok: bool | None, late: int, took: int) -> None:
        due = self.track.due(kind)
        probe = self.probes[kind]
        if due is None or probe is None:
            return
        begun = int(max(self.now, due + late))
        self.now = begun + took
        self.track.begin(kind, begun)
        assert self.track.due(kind) is None
        restart = self.track.result(kind, Finding(ok=ok, message="why"), self.now)
        self.last[kind] = (begun, self.now)
        if ok is not None:
            self.results[kind].append(ok)
        tail = self.results[kind][-probe.failure_threshold :]
        failed = ok is False and tail == [False] * probe.failure_threshold
        assert (restart is not None) == (failed and kind is not Kind.READINESS)

    @rule(odds=st.integers(0, 9))
    def stop(self, odds: int) -> None:
        if odds == 9:
            self.track.stop()
            self.running = False

    @invariant()
    def agrees(self) -> None:
        started = self.running and self.passed(Kind.STARTUP, at_first=False)
        ready = started and self.passed(Kind.READINESS, at_first=False)
        standing = self.track.standing
        assert (standing.started, standing.ready) == (started, ready)
        for kind in Kind:
            assert self.track.due(kind) == self.expected_due(kind)


TestTrackAgainstModel = TrackAgainstModel.TestCase
TestTrackAgainstModel.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
