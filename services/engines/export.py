"""Writes what runs as a manifest again: what was asked for, with the deployment config and live facts put in. Pure.

What a manifest of its format cannot say is listed instead. Where nothing had to be put in, the text is the one that was
deployed, byte for byte.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.engines.admission import config_json
from services.engines.engine import Component, Export, Issue, Observation, PortMapping, Role, Severity, Spec
from services.identity import hash_label
from services.manifests.scalars import plain

NOT_REPRESENTED = "NOT_REPRESENTED"

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """What the backend knows better than the manifest."""

    images: Mapping[str, str] = field(default_factory=dict)
    """By display name: the image that runs, pinned by digest (`name@sha256:…`)."""


def export(spec: Spec, observation: Observation | None, live: LiveFacts | None = None) -> Export:
    """The workload as a manifest of its own format."""
    bodies = [copy.deepcopy(document.body) for document in spec.manifest.documents]
    issues = list(_of_state(spec, observation))
    for document, body in zip(spec.manifest.documents, bodies, strict=True):
        if document.kind in ("Pod", "Deployment"):
            _write_pod(body, spec, observation, live or LiveFacts(), issues)
        elif document.kind == "Compose":
            _write_services(body, spec, issues)
        elif document.is_workload:
            issues += _config_issues(spec, ("replicas", "env", "labels"))
    issues += _config_issues(spec, ("resources", "engine_options"))
    unchanged = all(a == b.body for a, b in zip(bodies, spec.manifest.documents, strict=True))
    return Export(text=spec.manifest.text if unchanged else dump(bodies), issues=tuple(issues))


def dump(bodies: Sequence[Body]) -> str:
    """Documents as YAML that YAML 1.1 and 1.2 read alike."""
    return yaml.dump_all(bodies, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would read as a number (`1e3`, `0o17`); PyYAML, which reads 1.1, would not."""

    def ignore_aliases(self, data: object) -> bool:
        """Anchors only puzzle readers."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        is_text = isinstance(plain(text), str)
    except ValueError:
        is_text = False
    lines = text.split("\n")
    if not is_text or not all(line.isprintable() for line in lines):
        style: str | None = '"'
    else:
        style = "|" if len(lines) > 1 else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _write_pod(body: Body, spec: Spec, observation: Observation | None, live: LiveFacts, issues: list[Issue]) -> None:
    pod, metadata = _pod(body), _pod_metadata(body)
    replicas = spec.config.replicas
    if replicas is not None and body["kind"] == "Deployment":
        body["spec"]["replicas"] = replicas
    elif replicas not in (None, 1):
        issues.append(_issue("config.replicas", f"a Pod has no replicas; {replicas} were asked for"))
    if spec.config.labels:
        metadata["labels"] = {**metadata.get("labels", {}), **spec.config.labels}
    single = observation is not None and len({component.replica for component in observation.components}) == 1
    for container in [*pod.get("initContainers", ()), *pod.get("containers", ())]:
        _put_env(container, spec.config.env)
        if image := live.images.get(container["name"]):
            container["image"] = image
        if single and observation is not None:
            _put_ports(container, observation.ports)


def _pod(body: Body) -> Body:
    spec: Body = body["spec"] if body["kind"] == "Pod" else body["spec"]["template"]["spec"]
    return spec


def _pod_metadata(body: Body) -> Body:
    owner = body if body["kind"] == "Pod" else body["spec"]["template"]
    metadata: Body = owner.setdefault("metadata", {})
    return metadata


def _put_env(container: Body, env: Mapping[str, str]) -> None:
    if env:
        kept = [entry for entry in container.get("env", ()) if entry["name"] not in env]
        container["env"] = [*kept, *({"name": name, "value": value} for name, value in env.items())]


def _put_ports(container: Body, ports: Sequence[PortMapping]) -> None:
    """The host's ports as they are, where the manifest publishes one."""
    for port in container.get("ports", ()):
        if "hostPort" not in port:
            continue
        for live in ports:
            if (live.container_port, live.protocol) == (port["containerPort"], port.get("protocol", "TCP")):
                port["hostPort"] = live.host_port
                break


def _write_services(body: Body, spec: Spec, issues: list[Issue]) -> None:
    for service in body["services"].values():
        if spec.config.replicas is not None:
            service["deploy"] = {**(service.get("deploy") or {}), "replicas": spec.config.replicas}
        if spec.config.env:
            given = service.get("environment") or {}
            if isinstance(given, list):
                given = {name: value if is_set else None for name, is_set, value in (e.partition("=") for e in given)}
            service["environment"] = {**given, **spec.config.env}
    issues += _config_issues(spec, ("labels",))


def _config_issues(spec: Spec, names: Sequence[str]) -> Iterator[Issue]:
    given = config_json(spec.config)
    for name in names:
        if name in given:
            yield _issue(f"config.{name}", f"{name} of the deployment config has no place in this manifest")


def _of_state(spec: Spec, observation: Observation | None) -> Iterator[Issue]:
    """What is so at the moment, and not because a manifest says it."""
    if observation is None:
        return
    if observation.ownership.manifest_hash != hash_label(spec.ownership.manifest_hash):
        yield _issue("", "some of what runs was made for an earlier content; what was asked for last is written")
    mains = [component for component in observation.components if component.role is Role.MAIN]
    for component in mains:
        if not _runs(component):
            yield _issue("", f"{component.display_name} of replica {component.replica} does not run")


def _runs(component: Component) -> bool:
    return component.state.name in ("RUNNING", "STARTING", "DEGRADED")


def _issue(field_path: str, message: str) -> Issue:
    return Issue(severity=Severity.WARNING, field_path=field_path, reason=NOT_REPRESENTED, message=message)
