"""What a container's probes say and what their results mean, as Kubernetes has it: no clock, no IO.

Times are seconds on a clock of the caller's choice that never goes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from services.errors import FieldViolation, InvalidArgument

_MAX_MESSAGE = 1024


class Kind(StrEnum):
    """The three probes a container may have; the value is the word in messages."""

    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"

    @property
    def field_name(self) -> str:
        """Its field in the manifest, e.g. `startupProbe`."""
        return f"{self.value.lower()}Probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec:
    """Succeeds when the command exits 0 inside the container."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpGet:
    """Succeeds when a GET answers 200 to 399."""

    port: int
    host: str = ""
    """Empty: the pod's own address."""
    path: str = "/"
    scheme: str = "HTTP"
    """HTTP or HTTPS; certificates are not verified."""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSocket:
    """Succeeds when the port accepts a connection."""

    port: int
    host: str = ""
    """Empty: the pod's own address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grpc:
    """Succeeds when grpc.health.v1 says SERVING."""

    port: int
    service: str = ""


Handler = Exec | HttpGet | TcpSocket | Grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One probe; all times in seconds."""

    handler: Handler
    initial_delay: float = 0.0
    """Counted from the container's start."""
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    """In a row; 1 but for readiness."""
    failure_threshold: int = 3
    """In a row."""
    grace_seconds: float | None = None
    """Between TERM and KILL when this probe has the container restarted; None: as long as the pod says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """The probes of one container; false when there are none."""

    startup: Probe | None = None
    liveness: Probe | None = None
    readiness: Probe | None = None

    def __bool__(self) -> bool:
        return any((self.startup, self.liveness, self.readiness))

    def of(self, kind: Kind) -> Probe | None:
        """The probe of this kind."""
        return {Kind.STARTUP: self.startup, Kind.LIVENESS: self.liveness, Kind.READINESS: self.readiness}[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one run of a probe found."""

    ok: bool | None
    """None: the probe could not be run, which says nothing about the container."""
    message: str = ""
    """Why it failed or what is odd; empty when all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a container stands."""

    ready: bool = False
    started: bool = False
    message: str = ""
    """Why a probe's last run did not simply succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The container is to be stopped, and to be restarted as its restart policy says."""

    reason: str
    """StartupProbeFailed or LivenessProbeFailed."""
    message: str
    grace_seconds: float | None
    """Between TERM and KILL; None: as long as the pod says."""


def probes_of(container: Mapping[str, Any]) -> Probes:
    """The probes of a container as its PodSpec has it, valid by the schema.

    Raises InvalidArgument(UNKNOWN_PORT) or InvalidArgument(MANIFEST_INVALID), with a path that begins at the container.
    """
    found = {kind: _probe(container, kind) for kind in Kind if kind.field_name in container}
    return Probes(
        startup=found.get(Kind.STARTUP), liveness=found.get(Kind.LIVENESS), readiness=found.get(Kind.READINESS)
    )


def handler_of(container: Mapping[str, Any], action: Mapping[str, Any], *, path: str) -> Handler:
    """The handler of a probe or lifecycle hook that stands at `path`; raises like `probes_of`."""
    match action:
        case {"exec": {"command": [_, *_] as command}}:
            return Exec(command=tuple(command))
        case {"httpGet": {"port": port} as get}:
            return HttpGet(
                port=_port(container, port, f"{path}.httpGet.port"),
                host=get.get("host", ""),
                path=get.get("path") or "/",
                scheme=get.get("scheme") or "HTTP",
                headers=tuple((header["name"], header.get("value", "")) for header in get.get("httpHeaders", ())),
            )
        case {"tcpSocket": {"port": port} as tcp}:
            return TcpSocket(port=_port(container, port, f"{path}.tcpSocket.port"), host=tcp.get("host", ""))
        case {"grpc": {"port": int(port)} as grpc}:
            return Grpc(port=port, service=grpc.get("service") or "")
    raise _invalid(path, "needs one of exec (with a command), httpGet, tcpSocket and grpc", "MANIFEST_INVALID")


def _probe(container: Mapping[str, Any], kind: Kind) -> Probe:
    """A zero means the default, as in Kubernetes."""
    raw = container[kind.field_name]
    grace = raw.get("terminationGracePeriodSeconds")
    probe = Probe(
        handler=handler_of(container, raw, path=kind.field_name),
        initial_delay=float(raw.get("initialDelaySeconds", 0)),
        period=float(raw.get("periodSeconds") or 10),
        timeout=float(raw.get("timeoutSeconds") or 1),
        success_threshold=raw.get("successThreshold") or 1,
        failure_threshold=raw.get("failureThreshold") or 3,
        grace_seconds=None if grace is None else float(grace),
    )
    if kind is not Kind.READINESS and probe.success_threshold != 1:
        raise _invalid(f"{kind.field_name}.successThreshold", "must be 1", "MANIFEST_INVALID")
    if kind is Kind.READINESS and grace is not None:
        path = f"{kind.field_name}.terminationGracePeriodSeconds"
        raise _invalid(path, "must not be set: a readiness probe ends nothing", "MANIFEST_INVALID")
    return probe


def _port(container: Mapping[str, Any], port: int | str, path: str) -> int:
    """A port by number, or by its name among the container's ports."""
    if isinstance(port, int):
        return port
    for known in container.get("ports", ()):
        if known.get("name") == port:
            return int(known["containerPort"])
    if port.isascii() and port.isdigit():
        return int(port)
    raise _invalid(path, f"names the port {port!r}, which is not among the container's ports", "UNKNOWN_PORT")


def _invalid(path: str, message: str, reason: str) -> InvalidArgument:
    violation = FieldViolation(field_path=path, message=message, reason=reason)
    return InvalidArgument(f"{path} {message}", reason=reason, violations=[violation])


@dataclass(slots=True, kw_only=True)
class _Line:
    """One probe of one run of a container, and how far it got."""

    probe: Probe
    anchor: float
    """When its initial delay is over: it is due then, and every period from there."""
    passed: bool
    next_due: float = field(init=False)
    begun: float | None = None
    """Since when it is being run."""
    failed: bool = False
    """For good: the container is to be restarted."""
    message: str = ""
    last: bool | None = None
    in_a_row: int = 0

    def __post_init__(self) -> None:
        self.next_due = self.anchor

    def schedule(self, begun: float, now: float) -> None:
        """The next tick; ticks missed by a slow probe are left out, and one right after an overdue probe is too."""
        after = max(now, begun + self.probe.period / 2)
        ticks = math.floor((after - self.anchor) / self.probe.period) + 1
        self.next_due = self.anchor + ticks * self.probe.period
        self.begun = None

    def count(self, ok: bool) -> bool:
        """Whether this result makes as many in a row as it takes."""
        self.in_a_row = self.in_a_row + 1 if ok is self.last else 1
        self.last = ok
        return self.in_a_row >= (self.probe.success_threshold if ok else self.probe.failure_threshold)


class Track:
    """The probes of one run of a container; a restarted container gets a new one, and so counts anew.

    `started_at` is when this run began. `standing` is how it stood if it was followed before, so that nothing begins
    anew because we did.

    Liveness and readiness wait for startup. Ready is who runs, has started and has passed its readiness probe; without
    a probe the step is passed at once. When startup or liveness fails its threshold the container is to be restarted:
    that probe, and what waits for it, is not due again, while readiness goes on until the container has stopped.
    """

    def __init__(self, probes: Probes, *, started_at: float, standing: Standing | None = None) -> None:
        was = standing or Standing()
        passed = {Kind.STARTUP: was.started, Kind.LIVENESS: True, Kind.READINESS: was.ready}
        self._lines = {
            kind: _Line(probe=probe, anchor=started_at + probe.initial_delay, passed=passed[kind])
            for kind in Kind
            if (probe := probes.of(kind)) is not None
        }
        self._running = True

    @property
    def standing(self) -> Standing:
        """How the container stands."""
        started = self._running and self._has_passed(Kind.STARTUP)
        message = next((line.message for line in self._lines.values() if line.message), "")
        return Standing(ready=started and self._has_passed(Kind.READINESS), started=started, message=message)

    def due(self, kind: Kind) -> float | None:
        """When this probe is to be run next, at once if that is past; None: not now, or never again."""
        line = self._lines.get(kind)
        if line is None or line.failed or line.begun is not None or not self._running:
            return None
        its_turn = self._has_passed(Kind.STARTUP) is not (kind is Kind.STARTUP)
        return line.next_due if its_turn else None

    def begin(self, kind: Kind, now: float) -> None:
        """This probe is being run from `now` on."""
        self._lines[kind].begun = now

    def result(self, kind: Kind, finding: Finding, now: float) -> Restart | None:
        """This probe's run ended at `now`; what came of it. A result that comes after the container stopped is void."""
        line = self._lines[kind]
        if line.begun is None or not self._running:
            return None
        line.schedule(line.begun, now)
        line.message = f"{kind} probe: {finding.message}"[:_MAX_MESSAGE] if finding.message else ""
        if finding.ok is None or not line.count(finding.ok):
            return None
        if finding.ok or kind is Kind.READINESS:
            line.passed = finding.ok
            return None
        line.failed = True
        return Restart(
            reason=f"{kind}ProbeFailed",
            message=f"{kind} probe failed: {finding.message}"[:_MAX_MESSAGE],
            grace_seconds=line.probe.grace_seconds,
        )

    def stop(self) -> None:
        """The container stopped: it is neither ready nor started, and nothing is due any more."""
        self._running = False

    def _has_passed(self, kind: Kind) -> bool:
        line = self._lines.get(kind)
        return line is None or line.passed
