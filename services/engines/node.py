"""Whose engine this is: the node's id, asked from the provider, remembered, and never silently another one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from beemesh.provider.v1 import provider_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2_grpc as pb_grpc

from services.data_dir.node_id import remember, remembered
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
    """The node's id: `configured`, else what the provider at target `provider` says; remembered in `directory`."""

    def __init__(self, *, configured: str, provider: str, directory: Path) -> None:
        if configured:
            check_node_id(configured)
        self._configured = configured
        self._provider = provider
        self._directory = directory

    async def get(self) -> str:
        """The id; waits for the provider only where none is known yet.

        Raises FailedPrecondition: NODE_ID_UNKNOWN when there is nobody to ask, NODE_ID_CHANGED when another one is
        configured than this data directory belongs to; DataLoss(NODE_ID_DAMAGED).
        """
        if cached := remembered(self._directory):
            if self._configured:
                self._check_same(self._configured, cached, "the setting node_id")
            return cached
        if not self._configured and not self._provider:
            raise FailedPrecondition("the node's id is not known: set provider or node_id", reason="NODE_ID_UNKNOWN")
        node_id = self._configured or await self._ask()
        remember(self._directory, node_id)
        return node_id

    async def verify(self) -> None:
        """Ask the provider once it answers; raises FailedPrecondition(NODE_ID_CHANGED) when it says another id."""
        if self._provider and not self._configured:
            self._check_same(await self._ask(), remembered(self._directory), f"the provider at {self._provider}")

    def _check_same(self, said: str, cached: str, who: str) -> None:
        """Under another id the engine would find nothing that it has recorded, and forget it."""
        if said != cached:
            raise FailedPrecondition(
                f"this data directory belongs to node {cached} ({self._directory}), but {who} says {said}; give this "
                "engine another data_dir, or the node its old id",
                reason="NODE_ID_CHANGED",
            )

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
