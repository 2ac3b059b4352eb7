"""What engine podman keeps of manifests. Pure data."""

from __future__ import annotations

from services.engines.pods.policy import Honours

HONOURS = Honours(engine="podman", init_terminals=False)
