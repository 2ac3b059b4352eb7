"""Whose engine this is: the node's id, asked from the provider, remembered, and never silently another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from beemesh.provider.v1 import provider_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2_grpc as pb_grpc

from services.data_dir import faults
from services.data_dir.files import write_atomically
from services.errors import BeemeshError, FailedPrecondition
from services.identity import check_node_id
from services.rpc.client import connect
from services.rpc.deadline import budget
from services.rpc.errors import translated
from services.telemetry import Log

_CALL_SECONDS = 3.0
_BACKOFF_FIRST = 0.1
_BACKOFF_MAX = 5.0

log = Log(__name__)


class NodeIdentity:
    """The node's id: `configured`, else what the provider at target `provider` says; kept in the file `cache`."""

    def __init__(self, *, configured: str, provider: str, cache: Path) -> None:
        if configured:
            check_node_id(configured)
        self._configured = configured
        self._provider = provider
        self._cache = cache

    async def get(self) -> str:
        """The id; waits for the provider only where none is known yet.

        Raises FailedPrecondition: NODE_ID_UNKNOWN when there is nobody to ask, NODE_ID_CHANGED when another one is
        configured than this data directory belongs to; InvalidArgument for a damaged cache.
        """
        if cached := self._cached():
            if self._configured:
                self._check_same(self._configured, cached, "the setting node_id")
            return cached
        if not self._configured and not self._provider:
            raise FailedPrecondition("the node's id is not known: set provider or node_id", reason="NODE_ID_UNKNOWN")
        node_id = self._configured or await self._ask()
        try:
            write_atomically(self._cache, node_id.encode())
        except OSError as error:
            raise faults.at_start(error, self._cache) from error
        return node_id

    async def verify(self) -> None:
        """Ask the provider once it answers; raises FailedPrecondition(NODE_ID_CHANGED) when it says another id."""
        if self._provider and not self._configured:
            self._check_same(await self._ask(), self._cached(), f"the provider at {self._provider}")

    def _check_same(self, said: str, cached: str, who: str) -> None:
        """Under another id the engine would find nothing that it has recorded, and forget it."""
        if said != cached:
            raise FailedPrecondition(
                f"this data directory belongs to node {cached} ({self._cache}), but {who} says {said}; give this "
                "engine another data_dir, or the node its old id",
                reason="NODE_ID_CHANGED",
            )

    def _cached(self) -> str:
        return check_node_id(self._cache.read_text().strip()) if self._cache.exists() else ""

    async def _ask(self) -> str:
        wait = _BACKOFF_FIRST
        async with connect(self._provider, files=[pb.DESCRIPTOR]) as channel:
            stub = pb_grpc.ProviderServiceStub(channel)
            while True:
                try:
                    with translated():
                        answer = await stub.GetNodeIdentity(pb.GetNodeIdentityRequest(), timeout=budget(_CALL_SECONDS))
                    return check_node_id(answer.node_id)
                except BeemeshError as error:
                    log.info("provider_not_answering", target=self._provider, why=error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _BACKOFF_MAX)
