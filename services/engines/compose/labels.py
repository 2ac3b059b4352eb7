"""The labels that Compose itself puts on what it makes, by which services and replicas are known again."""

from __future__ import annotations

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
"""Of a service's containers, from 1."""
NETWORK = "com.docker.compose.network"
VOLUME = "com.docker.compose.volume"
CANARY = "beemesh.io/canary"
"""On a container of the health probe: the node's id."""
