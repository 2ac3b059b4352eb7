"""The labels of what a pod is on docker: ours, and Compose's, so that `docker compose` sees a project. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.engines.compose.files import project_name
from services.engines.compose.labels import NETWORK, NUMBER, PROJECT, SERVICE
from services.engines.docker_api.inspected import labels_of
from services.engines.pods import hooks
from services.engines.pods.labels import LABEL_POD, LABEL_ROLE, ROLE_INFRA
from services.engines.pods.volumes import LABEL_VOLUME
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID, Ownership, hash_label

INFRA = "_infra"
"""The Compose service of the containers that hold the pods' networks: no container of a manifest can have the name."""
_ONE_OFF = "com.docker.compose.oneoff"
_CONFIG_HASH = "com.docker.compose.config-hash"
"""`docker compose` takes what has none for a container of something else."""


def of_service(ownership: Ownership, service: str, number: int) -> dict[str, str]:
    """Compose's on a container; `number` is the replica's, from 0."""
    return {
        PROJECT: project_name(ownership.workload_id),
        SERVICE: service,
        NUMBER: str(number + 1),
        _ONE_OFF: "False",
        _CONFIG_HASH: hash_label(ownership.manifest_hash),
    }


def of_network(ownership: Ownership) -> dict[str, str]:
    """Ours and Compose's on the network of a workload's pods."""
    return {
        **ownership.labels(),
        LABEL_POD: ownership.workload_id,
        PROJECT: project_name(ownership.workload_id),
        NETWORK: "default",
    }


def of_node(node_id: str) -> dict[str, str]:
    """What every container and network of a pod on this node carries."""
    return {LABEL_NODE_ID: node_id, LABEL_POD: ""}


def of_workload(node_id: str, workload_id: str) -> dict[str, str]:
    """The same, of one workload."""
    return {LABEL_NODE_ID: node_id, LABEL_WORKLOAD_ID: workload_id, LABEL_POD: ""}


def of_volumes(node_id: str, workload_id: str) -> dict[str, str]:
    """What every volume of its pods carries."""
    return {LABEL_NODE_ID: node_id, LABEL_WORKLOAD_ID: workload_id, LABEL_VOLUME: ""}


def is_infra(container: Mapping[str, Any]) -> bool:
    """Whether it holds a pod's network, and is nothing that anybody has asked for."""
    return labels_of(container).get(LABEL_ROLE) == ROLE_INFRA


def kept(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """See `hooks.kept`; docker 20.10 has no annotations, so what is kept stands in labels."""
    return hooks.kept(labels_of(container))
