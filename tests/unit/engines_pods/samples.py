"""Manifests and specs for the tests of this folder."""

from __future__ import annotations

from services.engines.engine import Config, Spec
from services.identity import Ownership
from services.manifests import Manifest, parse

NODE = "a" * 40
WORKLOAD = "beemesh-pod-default-web-12345678"
OWNERSHIP = Ownership(
    node_id=NODE, deployment_id="pod-default-web", workload_id=WORKLOAD, manifest_hash="sha256:" + "b" * 64
)

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  containers:
  - name: main
    image: busybox
"""


DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      volumes:
      - {name: settings, configMap: {name: settings}}
      - {name: data, persistentVolumeClaim: {claimName: data}}
      - {name: scratch, emptyDir: {}}
      containers:
      - name: main
        image: busybox
        volumeMounts:
        - {name: settings, mountPath: /settings}
        - {name: data, mountPath: /data}
        - {name: scratch, mountPath: /scratch}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {mode: fast}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"""
"""Two replicas with files, a claim and a directory."""


def pod(*lines: str) -> Manifest:
    """The Pod with these lines added to its only container."""
    return parse(POD + "".join(f"    {line}\n" for line in lines))


def spec(manifest: Manifest | None = None, **config: object) -> Spec:
    """What the keeper would hand over."""
    return Spec(ownership=OWNERSHIP, manifest=manifest or parse(POD), config=Config(**config))  # type: ignore[arg-type] # the test's own
