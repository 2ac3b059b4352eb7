"""What a pod may learn about itself: fields of its metadata, and its containers' resources. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from services.engines.engine import Resources
from services.engines.pods.workload import Template
from services.manifests import quantities
from services.manifests.resources import Limits

POD_FIELDS = ("metadata.name", "metadata.namespace", "metadata.labels['", "metadata.annotations['")
MACHINE_FIELDS = ("spec.nodeName", "spec.serviceAccountName")

_ENTRY = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def is_known_field(field: str, known: tuple[str, ...]) -> bool:
    """Whether the field is one of `known`; those that end with `['` stand for all their entries."""
    return any(field.startswith(name) if name.endswith("['") else field == name for name in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a pod can be told about itself."""

    template: Template
    labels: Mapping[str, str]
    """The manifest's and the caller's; not ours."""
    node_id: str
    limits: Mapping[str, Limits]
    """By container, as they are enforced."""
    machine: Resources

    def field(self, path: str) -> str:
        """The value of a field that `is_known_field`; empty for an entry that is not there."""
        if match := _ENTRY.fullmatch(path):
            return self._entries(match[1]).get(match[2], "")
        match path:
            case "metadata.labels" | "metadata.annotations":
                entries = self._entries(path.removeprefix("metadata."))
                return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(entries.items()))
            case "metadata.name":
                return self.template.name
            case "metadata.namespace":
                return self.template.namespace
            case "spec.nodeName":
                return self.node_id
            case "spec.serviceAccountName":
                return str(self.template.spec.get("serviceAccountName") or "default")
        return ""

    def resource(self, reference: Mapping[str, Any], *, container: str) -> str:
        """A limit or request in the unit asked for, rounded up; a limit that is not set is the machine's size."""
        name = reference.get("containerName") or container
        kind, _, resource = reference["resource"].partition(".")
        amount = self._limit(name, resource)
        if kind == "requests":
            amount = self._request(name, resource, amount)
        elif amount is None:
            amount = self.machine.cpu_cores if resource == "cpu" else self.machine.memory_bytes
        divisor = quantities.quantity(reference.get("divisor") or "1") or Decimal(1)
        return str(math.ceil(round(Decimal(str(amount or 0)) / divisor, 9)))

    def _entries(self, field: str) -> Mapping[str, str]:
        return self.labels if field == "labels" else self.template.annotations

    def _limit(self, container: str, resource: str) -> float | None:
        limit = self.limits[container]
        return limit.cpu_cores if resource == "cpu" else limit.memory_bytes

    def _request(self, container: str, resource: str, limit: float | None) -> float | None:
        found = next(each for _, each in self.template.containers() if each["name"] == container)
        asked = ((found.get("resources") or {}).get("requests") or {}).get(resource)
        if asked is None:
            return limit
        return quantities.cpu(asked) if resource == "cpu" else quantities.memory(asked)


def _quoted(text: str) -> str:
    """As Kubernetes writes it, in Go's quotes."""
    return json.dumps(text, ensure_ascii=False)
