"""The labels by which the engine knows its pods and containers again, beside those that all engines share."""

from __future__ import annotations

LABEL_GRACE = "beemesh.io/grace-seconds"
"""The pod's grace period: no list of the backend's shows it."""
LABEL_REPLICA = "beemesh.io/replica"
"""The replica's number, from 0."""
LABEL_POD = "beemesh.io/pod"
"""The name of the pod that a container or a volume belongs to alone."""
LABEL_CONTAINER = "beemesh.io/container"
"""The container's name in the manifest."""
LABEL_ROLE = "beemesh.io/role"
"""`main`, `init`, or `helper`: a container of the engine's own that is never started."""

ROLE_MAIN, ROLE_INIT, ROLE_HELPER = "main", "init", "helper"
