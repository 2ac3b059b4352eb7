"""What rootless podman cannot do is refused by field, never run without it."""

from __future__ import annotations

from typing import Any

import pytest

from services.engines.engine import Config, Resources, Severity
from services.engines.podman.ability import Ability, ability_of, lacking, rootless
from services.manifests import parse

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    beemesh.io/resources.memory: 64Mi
spec:
  initContainers:
  - name: first
    image: busybox
    resources: {limits: {cpu: 500m}}
  containers:
  - name: main
    image: busybox
    ports:
    - {containerPort: 80, hostPort: 80}
    - {containerPort: 81, hostPort: 8081}
    resources:
      limits: {cpu: "1", memory: 1Gi}
      requests: {memory: 1Mi}
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {exec: {command: ["true"]}}
    startupProbe: {tcpSocket: {port: 80, host: 127.0.0.1}}
    lifecycle: {preStop: {httpGet: {port: 80}}}
"""
V1 = rootless(False, ["memory"], lowest_port=1024)


def refused(text: str, ability: Ability, config: Config | None = None) -> set[str]:
    """The fields that are refused."""
    issues = lacking(parse(text), config or Config(), ability)
    return {issue.field_path for issue in issues if issue.severity is Severity.ERROR}


def info(**host: Any) -> dict[str, Any]:
    """What podman says of itself."""
    return {"host": {"security": {"rootless": True}, "cgroupVersion": "v2", **host}}


def test_roots_podman_lacks_nothing() -> None:
    """However its cgroups are."""
    ability = ability_of({"host": {"security": {"rootless": False}, "cgroupVersion": "v1"}}, lowest_port=1024)
    assert (ability, ability.cannot) == (Ability(), "")
    assert refused(POD, ability, Config(resources=Resources(cpu_cores=1.0, memory_bytes=1))) == set()


@pytest.mark.parametrize(
    ("told", "cpu", "memory", "stats"),
    [
        (info(cgroupVersion="v1", cgroupControllers=["memory", "cpu"]), False, False, False),
        (info(cgroupVersion="v1"), False, False, False),
        (info(cgroupControllers=["memory", "pids"]), False, True, True),
        (info(cgroupControllers=["cpuset", "cpu", "memory", "pids"]), True, True, True),
        (info(cgroupControllers=None), False, False, True),
    ],
)
def test_limits_need_their_controllers(told: dict[str, Any], cpu: bool, memory: bool, stats: bool) -> None:
    """On cgroup v2 each limit needs its own, delegated; on v1 nothing is delegated, whatever is listed."""
    ability = ability_of(told, lowest_port=1024)
    assert (ability.rootless, ability.cpu, ability.memory, ability.stats) == (True, cpu, memory, stats)


def test_what_cannot_be_kept_is_refused_where_it_is_asked_for() -> None:
    """Limits, hints, low ports, and probes and hooks over the pod's network; requests are only warned of."""
    assert refused(POD, V1) == {
        'metadata.annotations["beemesh.io/resources.memory"]',
        "spec.initContainers[0].resources.limits.cpu",
        "spec.containers[0].resources.limits.cpu",
        "spec.containers[0].resources.limits.memory",
        "spec.containers[0].ports[0].hostPort",
        "spec.containers[0].livenessProbe.httpGet",
        "spec.containers[0].lifecycle.preStop.httpGet",
    }
    warned = [issue for issue in lacking(parse(POD), Config(), V1) if issue.severity is Severity.WARNING]
    assert [issue.field_path for issue in warned] == ["spec.containers[0].resources.requests.memory"]
    assert warned[0].line == 20


def test_what_the_user_may_do_is_let_through() -> None:
    """With the controllers and an open port 80 only the pod's network is missing; on the host's nothing is."""
    able = rootless(True, ["cpu", "memory"], lowest_port=80)
    assert refused(POD, able) == {
        "spec.containers[0].livenessProbe.httpGet",
        "spec.containers[0].lifecycle.preStop.httpGet",
    }
    host = POD.replace("spec:\n", "spec:\n  hostNetwork: true\n").replace(
        "    - {containerPort: 81, hostPort: 8081}\n", ""
    )
    assert refused(host, able) == set()


def test_hints_of_a_template_and_limits_of_a_config_are_limits_too() -> None:
    """Whoever sets them, they would not be kept."""
    deployment = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}, annotations: {beemesh.io/resources.cpu: "1"}}
    spec: {containers: [{name: main, image: busybox}]}
"""
    config = Config(resources=Resources(cpu_cores=1.0, memory_bytes=1))
    assert refused(deployment, V1, config) == {
        'spec.template.metadata.annotations["beemesh.io/resources.cpu"]',
        "config.resources.cpu_cores",
        "config.resources.memory_bytes",
    }


def test_what_it_cannot_is_said_in_words() -> None:
    """Each of it."""
    assert V1.cannot == (
        "keep memory limits; keep CPU limits; measure use; reach pods from the node, so only exec probes run; "
        "publish ports below 1024"
    )
