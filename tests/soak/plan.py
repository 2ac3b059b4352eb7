"""What happens in one round of a soak, drawn from a seeded generator: who asks what, who is killed, and when. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.crash.life import NEW, OLD
from tests.crash.node import ENGINES, SERVICES

NAMES = ("one", "two", "three")
IMAGES = (OLD, NEW, "localhost/third:1")
_DELAY_MAX = 0.08
"""Seconds; most operations on mock are over by then."""
_ALL, _AT_A_POINT = 0.1, 0.6
"""How often all services are killed, and how often it is at a point."""

_DEPLOYING = ("SELECT:CHOSEN", "DEPLOY:INTENT", "DEPLOY:DEPLOYED", "SETTLE:RUNNING", "ANNOUNCE")
_STEPS: Mapping[str, tuple[str, ...]] = {
    "apply": _DEPLOYING,
    "roll_back": _DEPLOYING,
    "delete": ("REST:DELETE", "REMOVE:REMOVED", "WITHDRAW"),
    "stop": ("REST:STOP", "STOP:STOPPED", "WITHDRAW"),
    "start": ("REST:START", "START:STARTED", "SETTLE:RUNNING", "ANNOUNCE"),
    "restart": ("REST:RESTART", "RESTART:STARTED", "SETTLE:RUNNING"),
    "vanish": ("REST:VANISHED", "REST:REPAIR", "DEPLOY:DEPLOYED"),
}
"""Points of the orchestrator that a verb leads to."""

_ACTS: Mapping[str, tuple[str, ...]] = {
    "apply": ("record DEPLOYING", "create", "record DEPLOYED", "destroy"),
    "roll_back": ("record DEPLOYING", "destroy", "create", "record DEPLOYED"),
    "delete": ("record REMOVING", "destroy", "drop"),
    "stop": ("record STOPPING", "stop", "record STOPPED"),
    "start": ("record STARTING", "start", "record DEPLOYED"),
    "restart": ("record STARTING", "stop", "start", "record DEPLOYED"),
    "vanish": ("drop", "record DEPLOYING", "create", "record DEPLOYED"),
}
"""Points of the engine that has the deployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a deployment is to be, by what its client was promised."""

    image: str
    replicas: int
    engine: str
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of one deployment."""

    verb: str
    """apply, delete, stop, start, restart, roll_back or vanish (that one nobody asks for)."""
    name: str
    wanted: Wanted | None
    """How it is to be then; None: gone. Of a rollback it is found out when it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round."""

    requests: tuple[Request, ...]
    """At the same time, each of another deployment."""
    victims: tuple[str, ...]
    at: tuple[str, str] | None
    """The service and the point at which the victims are killed, if it is reached."""
    delay: float
    """Seconds after which they are killed otherwise."""

    def __str__(self) -> str:
        asked = ", ".join(f"{item.verb} {item.name}" for item in self.requests)
        when = f"at {self.at[0]}'s {self.at[1]!r}" if self.at else f"after {self.delay * 1000:.0f} ms"
        return f"{asked}; kill {', '.join(self.victims)} {when}"


def draw(rng: random.Random, known: Mapping[str, Wanted | None]) -> Round:
    """The next round, given how all deployments are."""
    names = rng.sample(NAMES, rng.choice((1, 1, 2, 3)))
    requests = tuple(_request(rng, name, known.get(name)) for name in names)
    victims = SERVICES if rng.random() < _ALL else tuple(rng.sample(SERVICES, rng.choice((1, 1, 1, 2))))
    at = None
    if rng.random() < _AT_A_POINT:
        at = _point(rng, rng.choice(requests), known)
        victims = tuple(dict.fromkeys((at[0], *victims[1:])))
    return Round(requests=requests, victims=victims, at=at, delay=rng.uniform(0, _DELAY_MAX))


def _point(rng: random.Random, request: Request, known: Mapping[str, Wanted | None]) -> tuple[str, str]:
    moment = rng.choice(("before", "after"))
    if rng.random() < 0.5:
        return "orchestrator", f"{rng.choice(_STEPS[request.verb])} {moment}"
    has = request.wanted or known.get(request.name)
    assert has is not None
    return has.engine, f"{rng.choice(_ACTS[request.verb])} {moment}"


def _request(rng: random.Random, name: str, now: Wanted | None) -> Request:
    if now is None:
        return Request(verb="apply", name=name, wanted=_any(rng))
    verb = rng.choices(*zip(*_verbs(now), strict=True))[0]
    return Request(verb=verb, name=name, wanted=_then(rng, verb, now))


def _verbs(now: Wanted) -> Sequence[tuple[str, int]]:
    if now.stopped:
        return (("start", 3), ("apply", 3), ("delete", 2))
    return (("apply", 6), ("delete", 3), ("stop", 2), ("restart", 2), ("roll_back", 2), ("vanish", 1))


def _then(rng: random.Random, verb: str, now: Wanted) -> Wanted | None:
    if verb == "apply":
        return _any(rng)
    if verb == "delete":
        return None
    return Wanted(image=now.image, replicas=now.replicas, engine=now.engine, stopped=verb == "stop")


def _any(rng: random.Random) -> Wanted:
    return Wanted(image=rng.choice(IMAGES), replicas=rng.choice((1, 1, 2)), engine=rng.choice((*ENGINES, ENGINES[0])))
