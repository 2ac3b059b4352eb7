"""The databases of a node, and the schema that this release leads each to: known also to who may not ask a service."""

from __future__ import annotations

from collections.abc import Mapping

VERSIONS: Mapping[str, int] = {"provider/provider.db": 1, "orchestrator/orchestrator.db": 1}
"""By path below the node's data directory."""
