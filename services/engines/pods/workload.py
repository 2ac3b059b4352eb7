"""A Pod, or a Deployment's template with its number of replicas, seen alike. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.engine import Config
from services.engines.pods.policy import WORKLOADS
from services.identity import replica_name
from services.manifests import Document, Manifest, Path
from services.manifests.kubernetes import pod_path

DEFAULT_GRACE_SECONDS = 30
_HOSTNAME_MAX = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What all replicas of one document have in common."""

    document: Document
    replicas: int
    alone: bool
    """It is the manifest's only workload."""

    @property
    def path(self) -> Path:
        """Where the pod's spec stands in the document."""
        return pod_path(self.document.kind) or ()

    @property
    def spec(self) -> Mapping[str, Any]:
        """The pod's spec."""
        value: Any = self.document.body
        for step in self.path:
            value = value[step]
        spec: Mapping[str, Any] = value
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        """The pod's labels."""
        return self._metadata("labels")

    @property
    def annotations(self) -> Mapping[str, str]:
        """The pod's annotations."""
        return self._metadata("annotations")

    @property
    def namespace(self) -> str:
        """In which references are looked up."""
        return self.document.namespace

    @property
    def name(self) -> str:
        """What the pod is called inside: we number the replicas where nobody but the backend sees it."""
        return self.document.name

    @property
    def hostname(self) -> str:
        """Inside the pod."""
        given: str = self.spec.get("hostname") or ""
        return given or self.name[:_HOSTNAME_MAX].rstrip("-.")

    @property
    def grace_seconds(self) -> int:
        """Between TERM and KILL."""
        seconds: int = self.spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        return seconds

    @property
    def inits(self) -> Sequence[Mapping[str, Any]]:
        """The init containers, in their order."""
        return self.spec.get("initContainers") or ()

    @property
    def mains(self) -> Sequence[Mapping[str, Any]]:
        """The containers."""
        return self.spec.get("containers") or ()

    def containers(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """All containers with their paths, init containers first."""
        for field in ("initContainers", "containers"):
            for index, container in enumerate(self.spec.get(field) or ()):
                yield (*self.path, field, index), container

    def volumes(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """All volumes with their paths."""
        for index, volume in enumerate(self.spec.get("volumes") or ()):
            yield (*self.path, "volumes", index), volume

    def prefix(self, workload_id: str) -> str:
        """What the names of this document's objects begin with."""
        return workload_id if self.alone else f"{workload_id}-{self.name}"

    def pod_name(self, workload_id: str, number: int) -> str:
        """The backend's name of a replica."""
        return replica_name(self.prefix(workload_id), number)

    def _metadata(self, field: str) -> Mapping[str, str]:
        above: Any = self.document.body
        for step in self.path[:-1]:
            above = above[step]
        entries: Mapping[str, str] = (above.get("metadata") or {}).get(field) or {}
        return entries


def templates(manifest: Manifest, config: Config) -> list[Template]:
    """The workloads of a manifest; the config's replicas beat the manifest's."""
    documents = [document for document in manifest.documents if document.kind in WORKLOADS]
    return [
        Template(document=document, replicas=_replicas(document, config), alone=len(documents) == 1)
        for document in documents
    ]


def _replicas(document: Document, config: Config) -> int:
    if config.replicas is not None:
        return config.replicas
    own = document.body["spec"].get("replicas", 1) if document.kind == "Deployment" else 1
    return int(own)
