"""The labels by which the engine knows its pods and containers again, beside those that all engines share."""

from __future__ import annotations

LABEL_GRACE = "beemesh.io/grace-seconds"
"""The pod's grace period: no list of the backend's shows it."""
LABEL_REPLICA = "beemesh.io/replica"
"""The replica's number, from 0."""
LABEL_POD = "beemesh.io/pod"
"""The name of the pod that something belongs to alone, or of the workload, where its pods share it."""
LABEL_CONTAINER = "beemesh.io/container"
"""The container's name in the manifest."""
LABEL_ROLE = "beemesh.io/role"
"""`main`, `init`, `infra` (it holds a pod's network), or `helper`: a container of ours that is never started."""

ROLE_MAIN, ROLE_INIT, ROLE_HELPER, ROLE_INFRA = "main", "init", "helper", "infra"
