"""What the core needs of the other services; the adapters beside it speak gRPC, tests bring their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.orchestrator.model import Announced, Config, Deployment, EngineView, Issue, Observed, Plan, Wish


class Engines(Protocol):
    """The node's engines, as the registry tells them. Failures are services.errors."""

    def views(self) -> Mapping[str, EngineView]:
        """Every registered engine by id."""

    def default(self) -> str:
        """The registry's default engine, or ""."""

    def observed(self, engine_id: str, workload_id: str) -> Observed | None:
        """The workload as last seen; state UNKNOWN when its engine is out of reach; None when it is not there."""

    def held(self, engine_id: str) -> Mapping[str, Observed] | None:
        """All of an engine's workloads on this node, by id, as last told; None when it is out of reach."""

    async def kept(self, engine_id: str, workload_id: str) -> tuple[str, Config]:
        """The manifest, byte for byte, and the config that an engine has kept of a workload."""

    async def wait_changed(self, workload_id: str, timeout: float) -> None:
        """Return when the workload may have changed, or after `timeout` seconds."""

    async def validate(self, engine_id: str, wish: Wish, *, warn: bool) -> Sequence[Issue]:
        """What the engine says of this manifest and config; raises Unavailable if it does not answer."""

    async def plan(self, engine_id: str, workload_id: str, wish: Wish) -> Plan:
        """What a deploy would change; touches nothing."""

    async def deploy(self, engine_id: str, deployment: Deployment) -> Observed:
        """Make the engine run it (idempotent by workload id and digest)."""

    async def fetch(self, engine_id: str, workload_id: str) -> Observed | None:
        """The workload now; None only because the engine said that there is none."""

    async def stop(self, engine_id: str, workload_id: str, *, grace_seconds: float | None) -> None:
        """Stop and keep; raises NotFound when it is not there."""

    async def start(self, engine_id: str, workload_id: str) -> None:
        """Start what was stopped, without recreating it; raises NotFound when it is not there."""

    async def restart(self, engine_id: str, workload_id: str, *, grace_seconds: float | None) -> None:
        """Stop and start in place; raises NotFound when it is not there."""

    async def remove(self, engine_id: str, workload_id: str, *, remove_volumes: bool, force: bool) -> None:
        """Return when the engine has confirmed that nothing of the workload is left: the fence."""


class Providers(Protocol):
    """The node's provider service."""

    async def announced(self) -> Sequence[str]:
        """The manifest ids that this node announces now."""

    async def announce(self, manifest_id: str, text: Announced) -> None:
        """Make the DHT say that this node runs it; a repeat renews."""

    async def withdraw(self, manifest_id: str) -> None:
        """Make the DHT say it no more; harmless when it did not."""
