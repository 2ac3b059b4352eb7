"""Manifests that the tests start from, and how they ask what was refused."""

from __future__ import annotations

import pytest

from services.errors import FieldViolation, InvalidArgument
from services.manifests import parse

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    beemesh.io/runtime-engine: "podman"
spec:
  containers:
  - name: nginx
    image: nginx:latest
"""

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  namespace: store
spec:
  replicas: 3
  selector:
    matchLabels: {app: shop}
  template:
    metadata:
      labels: {app: shop, tier: front}
    spec:
      containers:
      - name: app
        image: registry.example:5000/team/shop:1.2
        resources:
          requests: {cpu: 250m, memory: 64Mi}
          limits: {cpu: "1", memory: 128Mi}
"""

CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  mode: "fast"
"""

SECRET = """\
apiVersion: v1
kind: Secret
metadata:
  name: token
data:
  password: aHVudGVyMg==
"""

CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: data
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 1Gi
"""

COMPOSE = """\
version: '3.8'
services:
  api:
    image: node:16
    ports:
      - "3000:3000"
"""

MACHINE = """\
apiVersion: beemesh.io/v1
kind: VirtualMachine
metadata:
  name: ubuntu
  annotations:
    beemesh.io/runtime-engine: "qemu"
spec:
  image: ubuntu:22.04
  vcpus: 2
  memory: 4Gi
  disk: 20Gi
"""

FUNCTION = """\
apiVersion: beemesh.io/v1
kind: Function
metadata:
  name: processor
  annotations:
    beemesh.io/runtime-engine: "wasm"
spec:
  runtime: python:3.9
  handler: main.process
  memory: 512Mi
"""

VALID = (POD, DEPLOYMENT, f"{POD}---\n{CONFIG_MAP}---\n{SECRET}---\n{CLAIM}", COMPOSE, MACHINE, FUNCTION)


def pod_with(spec: str) -> str:
    """The Pod with more lines in its spec, the first of them on line 11."""
    return POD + spec


def refused(text: str) -> InvalidArgument:
    """The error with which `text` is refused."""
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert caught.value.violations
    return caught.value


def the_violation(text: str) -> FieldViolation:
    """The one finding for which `text` is refused."""
    error = refused(text)
    assert len(error.violations) == 1, error.violations
    assert error.reason == error.violations[0].reason
    return error.violations[0]


def found(text: str) -> list[tuple[str, int, str]]:
    """Path, line and reason of each finding for which `text` is refused."""
    return [(violation.field_path, violation.line, violation.reason) for violation in refused(text).violations]
