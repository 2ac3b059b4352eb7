"""What the engine refuses, with its path and line."""

from __future__ import annotations

import pytest

from services.engines.engine import Config, Issue, Resources, Severity
from services.engines.pods import fields
from services.engines.pods.fields import NodePolicy
from services.engines.pods.policy import Honours
from services.manifests import Manifest, parse
from tests.unit.engines_pods.samples import POD, pod

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
  hostAliases: [{ip: 192.0.2.1, hostnames: [db]}]
  securityContext: {runAsUser: 1, fsGroup: 2, supplementalGroups: [3], seccompProfile: {type: RuntimeDefault}}
  volumes:
  - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: files, configMap: {name: c, items: [{key: k, path: p, mode: 0400}], optional: true}}
  initContainers: [{name: first, image: x}]
  containers:
  - name: main
    image: ghcr.io/org/app:1
    imagePullPolicy: IfNotPresent
    command: [run]
    args: [fast]
    workingDir: /srv
    tty: true
    env:
    - {name: A, value: b}
    - {name: B, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}
    - {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    envFrom: [{prefix: P_, configMapRef: {name: c, optional: true}}]
    ports: [{name: http, containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1, protocol: TCP}]
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 250m, memory: 32Mi}}
    securityContext: {readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [KILL]}}
    lifecycle: {preStop: {exec: {command: [x]}}}
    volumeMounts: [{name: scratch, mountPath: /s}, {name: files, mountPath: /f, subPath: p}]
    terminationMessagePolicy: File
"""


def check(manifest: Manifest, config: Config, policy: NodePolicy | None = None) -> list[Issue]:
    """What engine podman says of it."""
    return fields.check(manifest, config, Honours(engine="podman"), policy)


def test_what_is_honoured_passes() -> None:
    """A Pod that uses every honoured field, and defaults and empty fields of others, has no findings."""
    assert check(parse(FULL), Config(replicas=1, env={"A": "b"}, labels={"x": "y"})) == []


@pytest.mark.parametrize(
    ("lines", "path", "line"),
    [
        (
            ["env:", "- name: A", "  valueFrom: {fieldRef: {fieldPath: status.podIP}}"],
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
            12,
        ),
        (["securityContext: {procMount: Unmasked}"], "spec.containers[0].securityContext.procMount", 10),
        (["stdin: true"], "spec.containers[0].stdin", 10),
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
        ("hostPID: true", "hostPID"),
        ("subdomain: x", "subdomain"),
        ("nodeSelector: {disk: ssd}", "nodeSelector.disk"),
        ("volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]", "volumes[0].emptyDir.sizeLimit"),
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


def test_workloads_of_one_name_are_refused() -> None:
    """Several workloads in one manifest pass, if each has a name of its own."""
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
    other = POD.replace("name: web\n", "name: other\n")
    assert check(parse(f"{POD}---\n{config_map}---\n{other}"), Config()) == []
    namesake = POD.replace("name: web\n", "name: web\n  namespace: elsewhere\n")
    (issue,) = check(parse(f"{POD}---\n{namesake}"), Config())
    assert (issue.field_path, issue.reason) == ("[1].metadata.name", "UNSUPPORTED_FIELD")


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("hostNetwork: true", "spec.hostNetwork"),
        ("volumes: [{name: v, hostPath: {path: /}}]", "spec.volumes[0].hostPath"),
    ],
)
def test_what_reaches_for_the_machine_is_denied_unless_granted(field: str, path: str) -> None:
    """Host access is an error of its own, and none where the node's policy grants it."""
    manifest = parse(POD.replace("spec:\n", f"spec:\n  {field}\n"))
    (issue,) = check(manifest, Config())
    assert (issue.field_path, issue.reason, issue.severity) == (path, "HOST_ACCESS_DENIED", Severity.ERROR)
    assert check(manifest, Config(), NodePolicy(host_access=True)) == []


def test_a_part_that_a_container_could_replace_by_a_link_is_refused() -> None:
    """A part of a volume is refused where another mount may write above it, and passes beside it or below none."""
    volume = POD.replace("spec:\n", "spec:\n  volumes: [{name: v, emptyDir: {}}]\n")

    def mounts(*parts: str) -> list[str]:
        lines = [f"    - {{name: v, mountPath: /{number}, {part}}}\n" for number, part in enumerate(parts)]
        return [issue.field_path for issue in check(parse(f"{volume}    volumeMounts:\n{''.join(lines)}"), Config())]

    assert mounts("subPath: a", "subPath: b", "subPath: a") == []
    assert mounts("subPath: a", "subPath: a/b") == ["spec.containers[0].volumeMounts[1].subPath"]
    assert mounts("readOnly: false", "subPath: a") == ["spec.containers[0].volumeMounts[1].subPath"]
    assert mounts("readOnly: true", "subPath: a") == []


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
