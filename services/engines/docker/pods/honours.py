"""What engine docker keeps of manifests. Pure data."""

from __future__ import annotations

from services.engines.pods.policy import TREES, Guarded, Honours, differing

HONOURS = Honours(engine="docker", trees=differing(TREES, {"hostPID": Guarded(), "hostIPC": Guarded()}))
