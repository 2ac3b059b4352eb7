"""Makes a resolved Compose project one of a node's own: labels, the deployment's config, our defaults. Pure.

Labels of networks and volumes must not change while they live: Compose makes a network anew when they do, with all
containers in it, and asks whether a volume's data may be lost. So what is there keeps the hash that it was made with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.engines.engine import Config
from services.engines.pods.labels import LABEL_POD
from services.identity import LABEL_MANIFEST_HASH, Ownership
from services.manifests.resources import Limits

Model = dict[str, Any]

_DEFAULT_PULL = "missing"
_READS_OPTIONS = ("", "json-file", "local")
"""Log drivers with the options max-size and max-file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCap:
    """How much of a container's output is kept, where its service does not say."""

    max_size: str = "10m"
    max_files: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashes:
    """The label `manifest-hash` of what is there already, by service, network and volume."""

    services: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What is put on a project."""

    ownership: Ownership
    config: Config = field(default_factory=Config)
    log_cap: LogCap = field(default_factory=LogCap)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """By service: what its containers may use at most, hints of the manifest and the config included."""
    there: Hashes = field(default_factory=Hashes)

    def on(self, model: Mapping[str, Any]) -> Model:
        """The project with the stamp; the model is as `compose config` writes it, `$` doubled."""
        stamped: Model = copy.deepcopy(dict(model))
        for name, service in (stamped.get("services") or {}).items():
            self._service(name, service)
        for kind, known in (("networks", self.there.networks), ("volumes", self.there.volumes)):
            for key, item in (stamped.get(kind) or {}).items():
                stamped[kind][key] = {**(item or {}), "labels": self._labels(item or {}, known.get(key))}
        return stamped

    def _service(self, name: str, service: Model) -> None:
        own = {**service, "labels": {**_labels(service), **{k: doubled(v) for k, v in self.config.labels.items()}}}
        service["labels"] = self._labels(own, self.there.services.get(name))
        service["environment"] = self._environment(service)
        service.setdefault("pull_policy", _DEFAULT_PULL)
        service.pop("profiles", None)  # those that are resolved are the active ones
        self._keep_stopped(service)
        self._cap_log(service)
        self._limit(service, self.limits.get(name))
        self._scale(service)

    def _labels(self, item: Mapping[str, Any], known: str | None) -> dict[str, str]:
        own = self.ownership.labels()
        given = {
            key: value for key, value in _labels(item).items() if key != LABEL_POD
        }  # it would be taken for a Pod's
        return {**given, **own, LABEL_MANIFEST_HASH: known or own[LABEL_MANIFEST_HASH]}

    def _environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """What Compose found no value for is not set: it must not find one in its own environment."""
        given = service.get("environment") or {}
        known = {name: value for name, value in given.items() if value is not None}
        return {**known, **{name: doubled(value) for name, value in self.config.env.items()}}

    @staticmethod
    def _keep_stopped(service: Model) -> None:
        """`always` starts even what was stopped on request, when docker itself is started again."""
        if service.get("restart") == "always":
            service["restart"] = "unless-stopped"
        policy = (service.get("deploy") or {}).get("restart_policy")
        if policy and policy.get("condition", "any") in ("any", ""):
            policy["condition"] = "unless-stopped"

    def _scale(self, service: Model) -> None:
        """The number apart from all else: to Compose a service with an empty `deploy` is another than one without."""
        deploy = {key: value for key, value in (service.pop("deploy", None) or {}).items() if value not in (None, {})}
        given = deploy.pop("replicas", None)
        count = self.config.replicas if self.config.replicas is not None else given
        if count is not None:
            service["scale"] = count
        if deploy:
            service["deploy"] = deploy

    def _cap_log(self, service: Model) -> None:
        logging = service.get("logging") or {}
        driver = logging.get("driver") or ""
        if driver in _READS_OPTIONS:
            cap = {"max-size": self.log_cap.max_size, "max-file": str(self.log_cap.max_files)}
            service["logging"] = {"driver": driver or "json-file", "options": {**cap, **(logging.get("options") or {})}}

    @staticmethod
    def _limit(service: Model, limits: Limits | None) -> None:
        """A limit of the service's own stands where it is lower."""
        if limits is None or limits == Limits(cpu_cores=None, memory_bytes=None):
            return
        deploy = service.setdefault("deploy", {})
        at = deploy.setdefault("resources", {}).setdefault("limits", {})
        own_cpu = at.get("cpus") or service.pop("cpus", None)
        own_memory = at.get("memory") or service.pop("mem_limit", None)
        if limits.cpu_cores is not None:
            at["cpus"] = f"{min(limits.cpu_cores, float(own_cpu or limits.cpu_cores)):.6f}".rstrip("0").rstrip(".")
        elif own_cpu:
            at["cpus"] = str(own_cpu)
        if limits.memory_bytes is not None:
            at["memory"] = str(min(limits.memory_bytes, int(own_memory or limits.memory_bytes)))
        elif own_memory:
            at["memory"] = str(own_memory)


def doubled(text: str) -> str:
    """A text that Compose, which reads the model once more, takes as it is."""
    return text.replace("$", "$$")


def _labels(item: Mapping[str, Any]) -> dict[str, str]:
    given = item.get("labels") or {}
    return {str(key): str(value) for key, value in given.items()}
