"""From a workload to what a backend is asked to make: pods, their containers, volumes; only what is honoured. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.engines.engine import Resources, Spec
from services.engines.pods import hooks, supervision
from services.engines.pods.downward import Facts
from services.engines.pods.environment import environment, expand
from services.engines.pods.images import image_of
from services.engines.pods.labels import (
    LABEL_CONTAINER,
    LABEL_GRACE,
    LABEL_POD,
    LABEL_REPLICA,
    LABEL_ROLE,
    ROLE_INIT,
    ROLE_MAIN,
)
from services.engines.pods.limits import Room, limits_of, room_of
from services.engines.pods.plan import Container, Plan, Pod
from services.engines.pods.security import must_not_be_root, user
from services.engines.pods.sources import Sources
from services.engines.pods.volumes import Volume, Volumes
from services.engines.pods.workload import Template, templates
from services.errors import FailedPrecondition


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of one container, in words that every backend has."""

    name: str
    """The backend's."""
    manifest: Mapping[str, Any]
    """A Container."""
    number: int
    """Its replica's."""
    role: str
    image: str
    """In full."""
    labels: Mapping[str, str]
    notes: Mapping[str, str]
    """What the engine must know of it later: its hooks, and how it is kept alive."""
    env: Mapping[str, str] = field(repr=False)
    """Values of Secrets may be among them."""
    command: Sequence[str] | None = field(repr=False)
    """In place of the image's entrypoint."""
    args: Sequence[str] | None = field(repr=False)
    room: Room


class Renderer(ABC):
    """One document of a workload, in one backend's words."""

    def __init__(self, spec: Spec, template: Template, machine: Resources) -> None:
        self._spec = spec
        self._template = template
        self._sources = Sources(spec.manifest)
        self._limits = limits_of(template, spec.config.resources)
        self._facts = Facts(
            template=template,
            labels={**template.labels, **spec.config.labels},
            node_id=spec.ownership.node_id,
            limits=self._limits,
            machine=machine,
        )
        self._volumes = Volumes(spec=spec, facts=self._facts, sources=self._sources)

    @abstractmethod
    def pod_body(self, name: str, labels: Mapping[str, str], number: int) -> Mapping[str, Any]:
        """What is posted for what the containers of a replica share."""

    @abstractmethod
    def container_body(self, asked: Asked) -> Mapping[str, Any]:
        """What is posted for a container, but for its pod, its user and its mounts."""

    def pods(self) -> Iterator[Pod]:
        """Every replica."""
        return (self._pod(number) for number in range(self._template.replicas))

    def _pod(self, number: int) -> Pod:
        volumes = self._volumes.of_pod(number)
        name = self._template.pod_name(self._spec.workload_id, number)
        return Pod(
            name=name,
            number=number,
            body=self.pod_body(name, self._labels(name, number), number),
            inits=tuple(self._container(each, name, number, volumes, ROLE_INIT) for each in self._template.inits),
            mains=tuple(self._container(each, name, number, volumes, ROLE_MAIN) for each in self._template.mains),
        )

    def _labels(self, pod: str, number: int) -> dict[str, str]:
        return {
            **self._facts.labels,
            **self._spec.ownership.labels(),
            LABEL_POD: pod,
            LABEL_REPLICA: str(number),
            LABEL_GRACE: str(self._template.grace_seconds),
        }

    def _container(
        self, container: Mapping[str, Any], pod: str, number: int, volumes: Mapping[str, Volume | str], role: str
    ) -> Container:
        pod_spec = self._template.spec
        env = environment(container, facts=self._facts, sources=self._sources, extra=self._spec.config.env)
        orders = {} if role == ROLE_INIT else supervision.annotation(pod_spec, container)
        asked = Asked(
            name=f"{pod}-{container['name']}",
            manifest=container,
            number=number,
            role=role,
            image=image_of(container).reference,
            labels={**self._labels(pod, number), LABEL_CONTAINER: container["name"], LABEL_ROLE: role},
            notes={**hooks.annotation(container), **orders},
            env={"HOSTNAME": self._template.hostname, **env},
            command=_expanded(container.get("command"), env),
            args=_expanded(container.get("args"), env),
            room=room_of(container, self._limits[container["name"]]),
        )
        return Container(
            name=container["name"],
            body=self.container_body(asked),
            image=asked.image,
            user=user(pod_spec, container),
            mounts=tuple(self._volumes.mounts(container, volumes, env)),
            not_root=must_not_be_root(pod_spec, container),
            post_start=container if (container.get("lifecycle") or {}).get("postStart") else None,
        )

    def host_ports(self) -> Iterator[Mapping[str, Any]]:
        """The ports of its containers that the machine is to have too."""
        for container in self._template.mains:
            yield from (port for port in container.get("ports") or () if port.get("hostPort"))


def render(spec: Spec, renderer: Callable[[Template], Renderer], *, engine: str) -> Plan:
    """Write the pods of a workload.

    Raises FailedPrecondition for what cannot be left out even by a caller who accepts losses.
    """
    found = templates(spec.manifest, spec.config)
    if not found:
        raise FailedPrecondition(
            f"workload {spec.workload_id}: engine {engine} runs Pods and Deployments, the manifest has none",
            reason="UNSUPPORTED_KIND",
        )
    images = [image_of(container) for template in found for _, container in template.containers()]
    return Plan(
        workload_id=spec.workload_id,
        pods=tuple(pod for template in found for pod in renderer(template).pods()),
        images=tuple(dict.fromkeys(images)),
    )


def hosts(spec: Mapping[str, Any]) -> list[str]:
    """The aliases of a PodSpec, each `name:address`."""
    aliases = spec.get("hostAliases") or ()
    return [f"{host}:{alias['ip']}" for alias in aliases for host in alias.get("hostnames") or ()]


def dns_options(spec: Mapping[str, Any]) -> list[str]:
    """The options of a PodSpec's resolver, each `name` or `name:value`."""
    return [
        f"{option['name']}:{option['value']}" if option.get("value") else option["name"]
        for option in (spec.get("dnsConfig") or {}).get("options") or ()
    ]


def _expanded(words: Sequence[str] | None, env: Mapping[str, str]) -> Sequence[str] | None:
    return [expand(word, env) for word in words] if words else None
