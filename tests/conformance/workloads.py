"""Workloads with all that a user sees of them, the same on every engine that claims their format.

A workload is a manifest and what is expected of it; `kubernetes.py` has those of Pods. Whoever adds a format writes its
workloads with the same expectations, and adds them to `WORKLOADS`. What an engine is known not to keep stands in
`gaps/<engine>.toml`, with the reason; a gap that is none any more fails the suite.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb

from services.manifests import Format
from tests.harness.engines import EngineClient
from tests.harness.ports import ask

SECONDS = 30.0
RUNNING, SUCCEEDED, FAILED, STOPPED = (
    wpb.WORKLOAD_STATE_RUNNING,
    wpb.WORKLOAD_STATE_SUCCEEDED,
    wpb.WORKLOAD_STATE_FAILED,
    wpb.WORKLOAD_STATE_STOPPED,
)
_GAPS = Path(__file__).parent / "gaps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A workload that was deployed, seen through its engine."""

    client: EngineClient
    workload_id: str
    name: str
    """NAME in its manifest, and in what is expected of it."""
    port: int
    """The port of the machine that its manifest was given."""

    async def get(self) -> wpb.Workload:
        """It, as it is now."""
        request = pb.GetWorkloadRequest(workload_id=self.workload_id)
        return (await self.client.engine.GetWorkload(request, timeout=SECONDS)).workload

    async def components(self, name: str) -> list[wpb.Component]:
        """Those that the manifest calls so, one a replica."""
        return [each for each in (await self.get()).components if each.display_name == name]

    async def log(self, name: str) -> list[str]:
        """What all of these have written."""
        request = pb.StreamWorkloadLogsRequest(workload_id=self.workload_id, component_id=name)
        said: list[str] = []
        async for message in self.client.engine.StreamWorkloadLogs(request, timeout=SECONDS):
            said += [entry.text for entry in message.entries]
        return said

    async def run(self, component_id: str, script: str) -> str:
        """What a shell prints in a component, both streams."""
        start = pb.ExecStart(workload_id=self.workload_id, component_id=component_id, command=["sh", "-c", script])
        said = bytearray()
        requests = iter([pb.ExecWorkloadRequest(start=start)])
        async for message in self.client.engine.ExecWorkload(requests, timeout=SECONDS):
            said += message.stdout + message.stderr
        return said.decode().strip()


class Expectation(Protocol):
    """Something that a user sees, sooner or later."""

    async def unmet(self, of: Deployed) -> str:
        """What is there instead; empty once it is as expected."""


@dataclass(frozen=True, slots=True)
class Shows:
    """What a shell command prints inside a component, of every replica."""

    component: str
    script: str
    printed: str

    async def unmet(self, of: Deployed) -> str:
        found = await of.components(self.component)
        said = [await of.run(each.component_id, self.script) for each in found]
        wanted = self.printed.replace("NAME", of.name)
        return "" if found and set(said) == {wanted} else f"{self.script}: {said}, not {wanted!r}"


@dataclass(frozen=True, slots=True)
class Logs:
    """Lines of a component, in this order, with nothing between them but others'."""

    component: str
    lines: Sequence[str]

    async def unmet(self, of: Deployed) -> str:
        said = await of.log(self.component)
        rest = iter(said)
        return "" if all(line in rest for line in self.lines) else f"{self.component} logged {said}"


@dataclass(frozen=True, slots=True)
class Is:
    """The state of a component's every replica, its reason, and how often it was restarted at least."""

    component: str
    state: int
    replicas: int = 1
    reason: str = ""
    ready: bool | None = None
    exit_code: int | None = None
    """Of the run that has ended."""
    last_exit_code: int | None = None
    """Of the run before this one."""
    restarts: int = 0

    async def unmet(self, of: Deployed) -> str:
        found = await of.components(self.component)
        return "" if len(found) == self.replicas and all(map(self._fits, found)) else f"{self}: {found}"

    def _fits(self, each: wpb.Component) -> bool:
        return (
            each.state == self.state
            and self.reason in ("", each.reason)
            and self.ready in (None, each.ready)
            and (self.exit_code is None or each.exit_status.exit_code == self.exit_code)
            and (self.last_exit_code is None or each.last_exit.exit_code == self.last_exit_code)
            and each.restart_count >= self.restarts
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """What a server says at the port of the machine."""

    said: str

    async def unmet(self, of: Deployed) -> str:
        if of.port not in {port.host_port for port in (await of.get()).ports}:
            return f"port {of.port} is not told"
        said = await asyncio.to_thread(ask, of.port)
        return "" if self.said in said else f"port {of.port} answers {said!r}"


Act = Callable[[Deployed], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that its user does, and what is seen after it."""

    act: Act
    expects: Sequence[Expectation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A workload, and all that is expected of it, from its deployment to its removal without a trace."""

    name: str
    title: str
    text: str = field(repr=False)
    """Its manifest, in which NAME, IMAGE and PORT are filled in."""
    expects: Sequence[Expectation]
    steps: Sequence[Step] = ()

    def manifest(self, *, name: str, image: str, port: int) -> str:
        """With all filled in."""
        return self.text.replace("NAME", name).replace("IMAGE", image).replace("PORT", str(port))


async def stop(of: Deployed) -> None:
    """Stop it, with its grace period."""
    await of.client.engine.StopWorkload(pb.StopWorkloadRequest(workload_id=of.workload_id), timeout=SECONDS)


async def start(of: Deployed) -> None:
    """Start it again."""
    await of.client.engine.StartWorkload(pb.StartWorkloadRequest(workload_id=of.workload_id), timeout=SECONDS)


async def met(expects: Sequence[Expectation], of: Deployed) -> None:
    """Wait until each is as expected, one after the other."""
    loop = asyncio.get_running_loop()
    for expectation in expects:
        end = loop.time() + SECONDS
        while problem := await expectation.unmet(of):
            assert loop.time() < end, problem
            await asyncio.sleep(0.1)


def gaps(engine: str) -> Mapping[str, Mapping[str, str]]:
    """What an engine does not keep: by format and workload, the reason."""
    path = _GAPS / f"{engine}.toml"
    found: Mapping[str, Mapping[str, str]] = tomllib.loads(path.read_text()) if path.exists() else {}
    return found


def gap(engine: str, format_: Format, name: str) -> list[pytest.MarkDecorator]:
    """The mark of a workload that an engine is known not to keep, if it is one; kept all the same, it fails."""
    why = gaps(engine).get(format_.value, {}).get(name)
    return [pytest.mark.xfail(reason=why, strict=True)] if why else []
