"""What the engine refuses, with its path and line."""

from __future__ import annotations

import pytest

from services.engines.engine import Config, Resources, Severity
from services.engines.podman.fields import check
from services.manifests import parse
from tests.unit.engines_podman.samples import POD, pod

FULL = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: prod, labels: {a: b}, annotations: {c: d}}
spec:
  restartPolicy: OnFailure
  hostname: inside
  terminationGracePeriodSeconds: 5
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  hostNetwork: false
  securityContext: {}
  volumes: []
  containers:
  - name: main
    image: ghcr.io/org/app:1
    imagePullPolicy: IfNotPresent
    command: [run]
    args: [fast]
    workingDir: /srv
    tty: false
    env: [{name: A, value: b}]
    ports: [{name: http, containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1, protocol: TCP}]
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 250m, memory: 32Mi}}
    terminationMessagePolicy: File
"""


def test_what_is_honoured_passes() -> None:
    """A Pod that uses every honoured field, and defaults and empty fields of others, has no findings."""
    assert check(parse(FULL), Config(replicas=1, env={"A": "b"}, labels={"x": "y"})) == []


@pytest.mark.parametrize(
    ("lines", "path", "line"),
    [
        (["livenessProbe:", "  exec: {command: [x]}"], "spec.containers[0].livenessProbe", 10),
        (["envFrom:", "- configMapRef: {name: c}"], "spec.containers[0].envFrom", 10),
        (
            ["env:", "- name: A", "  valueFrom: {fieldRef: {fieldPath: metadata.name}}"],
            "spec.containers[0].env[0].valueFrom",
            12,
        ),
        (["securityContext: {privileged: true}"], "spec.containers[0].securityContext", 10),
        (["lifecycle: {preStop: {exec: {command: [x]}}}"], "spec.containers[0].lifecycle", 10),
        (["tty: true"], "spec.containers[0].tty", 10),
        (["ports: [{containerPort: 1, protocol: SCTP}]"], "spec.containers[0].ports[0].protocol", 10),
        (
            ["resources:", "  limits:", "    ephemeral-storage: 1Gi"],
            "spec.containers[0].resources.limits.ephemeral-storage",
            12,
        ),
        (["restartPolicy: Always"], "spec.containers[0].restartPolicy", 10),
    ],
)
def test_a_field_of_a_container_that_would_be_dropped_is_named(lines: list[str], path: str, line: int) -> None:
    """Each field of a container that is not honoured is an error with its path and line."""
    (issue,) = check(pod(*lines), Config())
    assert (issue.severity, issue.reason) == (Severity.ERROR, "UNSUPPORTED_FIELD")
    assert (issue.field_path, issue.line) == (path, line)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("hostNetwork: true", "hostNetwork"),
        ("initContainers: [{name: i, image: x}]", "initContainers"),
        ("volumes: [{name: v, emptyDir: {}}]", "volumes"),
        ("securityContext: {runAsUser: 1}", "securityContext"),
        ("dnsPolicy: ClusterFirstWithHostNet", "dnsPolicy"),
        ("nodeSelector: {disk: ssd}", "nodeSelector"),
        ("shareProcessNamespace: true", "shareProcessNamespace"),
        ("activeDeadlineSeconds: 5", "activeDeadlineSeconds"),
    ],
)
def test_a_field_of_the_pod_that_would_be_dropped_is_named(field: str, name: str) -> None:
    """Each field of a pod that is not honoured is an error with its path and line."""
    manifest = parse(POD.replace("spec:\n", f"spec:\n  {field}\n"))
    (issue,) = check(manifest, Config())
    assert (issue.field_path, issue.line, issue.reason) == (f"spec.{name}", 7, "UNSUPPORTED_FIELD")


def test_an_impossible_image_is_named() -> None:
    """An image whose name is longer than any registry takes is an error before anything is pulled."""
    (issue,) = check(parse(POD.replace("busybox", "a" * 300)), Config())
    assert (issue.field_path, issue.line, issue.reason) == ("spec.containers[0].image", 9, "BAD_VALUE")


def test_other_kinds_and_second_pods_are_named() -> None:
    """Other kinds beside the Pod, and a second Pod, are errors at their documents."""
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
    second = POD.replace("name: web\n", "name: other\n")
    issues = check(parse(f"{POD}---\n{config_map}---\n{second}"), Config())
    assert [(issue.field_path, issue.reason) for issue in issues] == [
        ("[1].kind", "UNSUPPORTED_KIND"),
        ("[2].kind", "UNSUPPORTED_KIND"),
    ]


def test_replicas_cannot_share_a_host_port() -> None:
    """Two replicas with one hostPort are an error; without a hostPort they are not."""
    with_port = pod("ports: [{containerPort: 80, hostPort: 8080}]")
    assert check(with_port, Config(replicas=1)) == []
    (issue,) = check(with_port, Config(replicas=2))
    assert issue.field_path == "spec.containers[0].ports[0].hostPort"
    assert check(pod("ports: [{containerPort: 80}]"), Config(replicas=2)) == []


def test_options_and_storage_are_not_dropped_in_silence() -> None:
    """An engine option, of which there are none, and a storage limit are errors."""
    issues = check(parse(POD), Config(engine_options={"x": "1"}, resources=Resources(storage_bytes=1)))
    assert [(issue.field_path, issue.reason) for issue in issues] == [
        ('config.engine_options["x"]', "UNKNOWN_OPTION"),
        ("config.resources.storage_bytes", "UNSUPPORTED_FIELD"),
    ]
