"""Points at which a service stops and stays until it is told to go on; who watches kills it there.

Nothing of this is in the product: its functions are wrapped in the process that a test has started.

A point of the orchestrator is `STEP:OUTCOME before` (performed, not durable yet) or `… after` (durable, nothing done
since) for each row of the flow's table; `DEPLOY:INTENT` is the engine's name going into `touched`; `ANNOUNCE` and
`WITHDRAW` are its calls of the provider. A point of an engine is `create before` (nothing done yet), `create after`
(done, nobody knows) and so on for each verb of its backend, and `record DEPLOYING before` … for each durable phase.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from services.engines import registration
from services.engines.mock.engine import MockEngine
from services.engines.records import Record, Records
from services.orchestrator import engines, flow, outbox
from services.orchestrator.book import Book
from services.orchestrator.flow import Outcome
from services.orchestrator.model import Deployment
from services.orchestrator.providers import GrpcProviders

_LOOK_SECONDS = 0.002
VERBS = ("create", "destroy", "update", "stop", "start")


class Breakpoints:
    """One service's: `<name>.armed` says where it is to stop, `<name>.hit` that it stands there."""

    def __init__(self, directory: Path, name: str) -> None:
        self._armed = directory / f"{name}.armed"
        self._hit = directory / f"{name}.hit"

    def arm(self, point: str) -> None:
        """Stop at this point from now on; who stands at another one goes on. "": nowhere."""
        self._hit.unlink(missing_ok=True)
        new = self._armed.with_suffix(".new")
        new.write_text(point)
        new.replace(self._armed)

    def release(self, point: str) -> None:
        """Go on from this point, if it is the one."""
        if self._wanted() == point:
            self.arm("")

    def stands_at(self, point: str) -> bool:
        """Whether the service has reached it and waits."""
        return self._hit.exists() and self._hit.read_text() == point

    async def reach(self, point: str) -> None:
        """Within the service: be at a point."""
        if self._wanted() != point:
            return
        self._hit.write_text(point)
        while self._wanted() == point:
            await asyncio.sleep(_LOOK_SECONDS)

    def _wanted(self) -> str:
        return self._armed.read_text() if self._armed.exists() else ""


def install(program: str, name: str, directory: Path) -> None:
    """Put the points into this process, and make its waits short."""
    stop = Breakpoints(directory, name)
    flow.BACKOFF_FIRST, engines._RETRY_SECONDS, outbox._RETRY_FIRST, registration._RENEW_MAX = 0.05, 0.05, 0.05, 0.2
    if program == "orchestrator":
        _into_orchestrator(stop)
    elif program == "engine":
        _into_engine(stop)


def _into_orchestrator(stop: Breakpoints) -> None:
    rows: dict[str, str] = {}
    advance, save = flow.advance, Book.save

    def advanced(deployment: Deployment, outcome: Outcome, **more: Any) -> Deployment:
        rows[deployment.deployment_id] = f"{deployment.step}:{outcome}"
        return advance(deployment, outcome, **more)

    async def saved(self: Book, record: Deployment, *more: Any, **named: Any) -> Deployment:
        point = rows.pop(record.deployment_id, f"{record.step}:INTENT")
        await stop.reach(f"{point} before")
        kept = await save(self, record, *more, **named)
        await stop.reach(f"{point} after")
        return kept

    flow.advance = advanced
    Book.save = saved  # type: ignore[method-assign]
    _wrap(stop, GrpcProviders, "announce", "ANNOUNCE")
    _wrap(stop, GrpcProviders, "withdraw", "WITHDRAW")


def _into_engine(stop: Breakpoints) -> None:
    for verb in VERBS:
        _wrap(stop, MockEngine, verb, verb)
    write = Records.write

    async def written(self: Records, record: Record) -> None:
        await stop.reach(f"record {record.phase} before")
        await write(self, record)
        await stop.reach(f"record {record.phase} after")

    Records.write = written  # type: ignore[method-assign]
    _wrap(stop, Records, "drop", "drop")


def _wrap(stop: Breakpoints, owner: type[Any], method: str, point: str) -> None:
    inner: Callable[..., Awaitable[Any]] = getattr(owner, method)

    @functools.wraps(inner)
    async def wrapped(*args: Any, **named: Any) -> Any:
        await stop.reach(f"{point} before")
        result = await inner(*args, **named)
        await stop.reach(f"{point} after")
        return result

    setattr(owner, method, wrapped)
