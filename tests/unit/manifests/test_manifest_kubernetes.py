"""Kubernetes documents are checked as strictly as its API server would, each fault with path and line."""

from __future__ import annotations

import pytest

from services.manifests import parse
from tests.unit.manifests.samples import (
    CLAIM,
    CONFIG_MAP,
    DEPLOYMENT,
    POD,
    SECRET,
    found,
    pod_with,
    refused,
    the_violation,
)

CONTAINER = "spec.containers[0]"


def test_an_unknown_field_is_refused_at_its_key_with_the_likely_one() -> None:
    """A misspelt field is named, with its line and what was probably meant."""
    error = the_violation(pod_with("    imagePullPolcy: Always\n"))
    assert (error.field_path, error.line, error.column) == (f"{CONTAINER}.imagePullPolcy", 11, 5)
    assert error.reason == "UNKNOWN_FIELD"
    assert 'did you mean "imagePullPolicy"?' in error.message


def test_a_wrong_case_is_recognised() -> None:
    """A field that differs in case only is suggested too."""
    assert 'did you mean "hostNetwork"?' in the_violation(pod_with("  HOSTNETWORK: true\n")).message


def test_an_outlandish_field_gets_no_suggestion() -> None:
    """Nothing is suggested where nothing is close."""
    assert "did you mean" not in the_violation(pod_with("  zzz: true\n")).message


@pytest.mark.parametrize(
    ("spec", "path", "line", "reason"),
    [
        ("    ports: [{containerPort: http}]\n", f"{CONTAINER}.ports[0].containerPort", 11, "WRONG_TYPE"),
        ("    ports: [{containerPort: 0}]\n", f"{CONTAINER}.ports[0].containerPort", 11, "BAD_VALUE"),
        ("    ports: [{containerPort: 65536}]\n", f"{CONTAINER}.ports[0].containerPort", 11, "BAD_VALUE"),
        ("    ports: [{containerPort: 80, hostPort: -1}]\n", f"{CONTAINER}.ports[0].hostPort", 11, "BAD_VALUE"),
        ("    ports: [{containerPort: 80, protocol: tcp}]\n", f"{CONTAINER}.ports[0].protocol", 11, "BAD_VALUE"),
        ("    ports: [{containerPort: 80, name: '80'}]\n", f"{CONTAINER}.ports[0].name", 11, "BAD_VALUE"),
        ("    ports:\n    - hostPort: 80\n", f"{CONTAINER}.ports[0].containerPort", 12, "REQUIRED_FIELD"),
        ("    ports: 80\n", f"{CONTAINER}.ports", 11, "WRONG_TYPE"),
        ("    args: [1]\n", f"{CONTAINER}.args[0]", 11, "WRONG_TYPE"),
        ("    args: [a, ~]\n", f"{CONTAINER}.args[1]", 11, "WRONG_TYPE"),
        ("    args: [no, on, 22:22]\n    command: [true]\n", f"{CONTAINER}.command[0]", 12, "WRONG_TYPE"),
        ("    tty: 'true'\n", f"{CONTAINER}.tty", 11, "WRONG_TYPE"),
        ("    imagePullPolicy: always\n", f"{CONTAINER}.imagePullPolicy", 11, "BAD_VALUE"),
        ("    env: [{name: A, value: 1}]\n", f"{CONTAINER}.env[0].value", 11, "WRONG_TYPE"),
        ("    env: [{name: A=B}]\n", f"{CONTAINER}.env[0].name", 11, "BAD_VALUE"),
        ("    env: [{value: b}]\n", f"{CONTAINER}.env[0].name", 11, "REQUIRED_FIELD"),
        (
            "    env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n",
            f"{CONTAINER}.env[0].valueFrom",
            11,
            "BAD_VALUE",
        ),
        ("    env: [{name: A, valueFrom: {}}]\n", f"{CONTAINER}.env[0].valueFrom", 11, "REQUIRED_FIELD"),
        ("    envFrom: [{prefix: A}]\n", f"{CONTAINER}.envFrom[0]", 11, "REQUIRED_FIELD"),
        ("    resources: {limits: {cpu: lots}}\n", f"{CONTAINER}.resources.limits.cpu", 11, "BAD_VALUE"),
        ("    resources: {limits: {memory: 4GB}}\n", f"{CONTAINER}.resources.limits.memory", 11, "BAD_VALUE"),
        ("    resources: {limits: {cpu: -1}}\n", f"{CONTAINER}.resources.limits.cpu", 11, "BAD_VALUE"),
        ("    resources: {limits: {cpu: '-1'}}\n", f"{CONTAINER}.resources.limits.cpu", 11, "BAD_VALUE"),
        ("    resources: {limits: {cpu: .inf}}\n", f"{CONTAINER}.resources.limits.cpu", 11, "BAD_VALUE"),
        ("    resources: {limits: {mem: 1}}\n", f"{CONTAINER}.resources.limits.mem", 11, "BAD_VALUE"),
        (
            "    resources:\n      limits: {cpu: 500m}\n      requests: {cpu: 1}\n",
            f"{CONTAINER}.resources.requests.cpu",
            13,
            "BAD_VALUE",
        ),
        ("    livenessProbe: {periodSeconds: 1}\n", f"{CONTAINER}.livenessProbe", 11, "REQUIRED_FIELD"),
        (
            "    readinessProbe:\n      exec: {command: [a]}\n      tcpSocket: {port: 80}\n",
            f"{CONTAINER}.readinessProbe.tcpSocket",
            13,
            "BAD_VALUE",
        ),
        ("    readinessProbe: {tcpSocket: {port: 0}}\n", f"{CONTAINER}.readinessProbe.tcpSocket.port", 11, "BAD_VALUE"),
        (
            "    livenessProbe: {tcpSocket: {port: a}, successThreshold: 2}\n",
            f"{CONTAINER}.livenessProbe.successThreshold",
            11,
            "BAD_VALUE",
        ),
        ("    lifecycle: {preStop: {}}\n", f"{CONTAINER}.lifecycle.preStop", 11, "REQUIRED_FIELD"),
        (
            "    volumeMounts:\n    - name: data\n      mountPath: /data\n",
            f"{CONTAINER}.volumeMounts[0].name",
            12,
            "BAD_VALUE",
        ),
        ("  - name: nginx\n    image: b\n", "spec.containers[1].name", 11, "DUPLICATE_VALUE"),
        ("  initContainers: [{name: nginx, image: b}]\n", f"{CONTAINER}.name", 9, "DUPLICATE_VALUE"),
        ("  - name: b\n", "spec.containers[1].image", 11, "REQUIRED_FIELD"),
        ("  - image: b\n", "spec.containers[1].name", 11, "REQUIRED_FIELD"),
        ("  - name: A_b\n    image: b\n", "spec.containers[1].name", 11, "BAD_VALUE"),
        ("  - name: b\n    image: Bad Image\n", "spec.containers[1].image", 12, "BAD_VALUE"),
        ("  - name: b\n    image: ''\n", "spec.containers[1].image", 12, "BAD_VALUE"),
        ("  - name: b\n    image: a@sha256:12\n", "spec.containers[1].image", 12, "BAD_VALUE"),
        ("  - text\n", "spec.containers[1]", 11, "WRONG_TYPE"),
        ("  - ~\n", "spec.containers[1]", 11, "WRONG_TYPE"),
        ("  restartPolicy: no\n", "spec.restartPolicy", 11, "BAD_VALUE"),
        ("  dnsPolicy: none\n", "spec.dnsPolicy", 11, "BAD_VALUE"),
        ("  terminationGracePeriodSeconds: -1\n", "spec.terminationGracePeriodSeconds", 11, "BAD_VALUE"),
        ("  terminationGracePeriodSeconds: 30s\n", "spec.terminationGracePeriodSeconds", 11, "WRONG_TYPE"),
        ("  priority: 3000000000\n", "spec.priority", 11, "BAD_VALUE"),
        ("  hostNetwork: 1\n", "spec.hostNetwork", 11, "WRONG_TYPE"),
        ("  imagePullSecrets: [{}]\n", "spec.imagePullSecrets[0].name", 11, "REQUIRED_FIELD"),
        ("  volumes: [{emptyDir: {}}]\n", "spec.volumes[0].name", 11, "REQUIRED_FIELD"),
        ("  volumes: [{name: a, configMap: {}}]\n", "spec.volumes[0].configMap.name", 11, "REQUIRED_FIELD"),
        ("  volumes: [{name: a, hostPath: {path: /a, type: dir}}]\n", "spec.volumes[0].hostPath.type", 11, "BAD_VALUE"),
        (
            "  volumes: [{name: a, secret: {secretName: b, defaultMode: 512}}]\n",
            "spec.volumes[0].secret.defaultMode",
            11,
            "BAD_VALUE",
        ),
        (
            "  volumes: [{name: a, secret: {secretName: b, items: [{key: c, path: ../d}]}}]\n",
            "spec.volumes[0].secret.items[0].path",
            11,
            "BAD_VALUE",
        ),
        (
            "  volumes:\n  - name: a\n    emptyDir: {}\n    hostPath: {path: /a}\n",
            "spec.volumes[0].hostPath",
            14,
            "BAD_VALUE",
        ),
        ("  volumes: [{name: a}, {name: a}]\n", "spec.volumes[1].name", 11, "DUPLICATE_VALUE"),
        ("  ephemeralContainers: []\n", "spec.ephemeralContainers", 11, "UNSUPPORTED_FIELD"),
        (
            "  initContainers: [{name: a, image: b, lifecycle: {}}]\n",
            "spec.initContainers[0].lifecycle",
            11,
            "BAD_VALUE",
        ),
        (
            "    env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}]\n",
            f"{CONTAINER}.env[0].valueFrom.fieldRef.fieldPath",
            11,
            "BAD_VALUE",
        ),
        (
            "    env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.disk}}}]\n",
            f"{CONTAINER}.env[0].valueFrom.resourceFieldRef.resource",
            11,
            "BAD_VALUE",
        ),
        (
            "    securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [CAP_SYS_ADMIN]}}\n",
            f"{CONTAINER}.securityContext.allowPrivilegeEscalation",
            11,
            "BAD_VALUE",
        ),
        ("    securityContext: {runAsUser: -1}\n", f"{CONTAINER}.securityContext.runAsUser", 11, "BAD_VALUE"),
        (
            "    securityContext: {appArmorProfile: {type: Localhost}}\n",
            f"{CONTAINER}.securityContext.appArmorProfile.localhostProfile",
            11,
            "REQUIRED_FIELD",
        ),
        (
            "  securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: strict.json}}\n",
            "spec.securityContext.seccompProfile.localhostProfile",
            11,
            "BAD_VALUE",
        ),
        ("  dnsPolicy: None\n", "spec.dnsConfig.nameservers", 8, "REQUIRED_FIELD"),
        ("status: {phase: Running}\n", "status", 11, "UNSUPPORTED_FIELD"),
        ("data: {}\n", "data", 11, "UNKNOWN_FIELD"),
    ],
)
def test_a_bad_pod_is_refused_with_path_and_line(spec: str, path: str, line: int, reason: str) -> None:
    """Each fault of a Pod is one finding, at the value or key that is wrong."""
    assert found(pod_with(spec)) == [(path, line, reason)]


@pytest.mark.parametrize(
    ("text", "path", "line", "reason"),
    [
        (POD.replace("  name: web\n", ""), "metadata.name", 4, "REQUIRED_FIELD"),
        (POD.replace("name: web", "generateName: web-"), "metadata.name", 4, "REQUIRED_FIELD"),
        (POD.replace("name: web", "name: Web"), "metadata.name", 4, "BAD_VALUE"),
        (POD.replace("name: web", "name: " + "a" * 254), "metadata.name", 4, "BAD_VALUE"),
        (POD.replace("name: web", "name: 12"), "metadata.name", 4, "WRONG_TYPE"),
        (POD.replace("name: web", "name: web\n  namespace: A"), "metadata.namespace", 5, "BAD_VALUE"),
        (POD.replace('"podman"', "1"), 'metadata.annotations["beemesh.io/runtime-engine"]', 6, "WRONG_TYPE"),
        (POD.replace("beemesh.io/runtime-engine", "a b"), 'metadata.annotations["a b"]', 6, "BAD_VALUE"),
        (
            POD.replace("  annotations:", "  labels:").replace('"podman"', '"-"'),
            'metadata.labels["beemesh.io/runtime-engine"]',
            6,
            "BAD_VALUE",
        ),
        (POD[: POD.index("spec:")], "spec", 1, "REQUIRED_FIELD"),
        (POD[: POD.index("spec:")] + "spec:\n", "spec", 7, "REQUIRED_FIELD"),
        (POD[: POD.index("spec:")] + "spec: {}\n", "spec.containers", 7, "REQUIRED_FIELD"),
        (POD[: POD.index("spec:")] + "spec: {containers: []}\n", "spec.containers", 7, "BAD_VALUE"),
        (POD[: POD.index("spec:")] + "spec: []\n", "spec", 7, "WRONG_TYPE"),
    ],
)
def test_a_bad_outer_shape_is_refused_with_path_and_line(text: str, path: str, line: int, reason: str) -> None:
    """Names, annotations and missing parts are reported where they are, or where they should be."""
    assert found(text) == [(path, line, reason)]


@pytest.mark.parametrize(
    ("before", "after", "path", "line", "reason"),
    [
        ("{app: shop}\n", "{app: other}\n", "spec.selector.matchLabels.app", 9, "BAD_VALUE"),
        ("{app: shop}\n", "{}\n", "spec.selector", 9, "BAD_VALUE"),
        (
            "    matchLabels: {app: shop}\n",
            "    matchExpressions: [{key: app, operator: NotIn, values: [shop]}]\n",
            "spec.selector.matchExpressions[0]",
            9,
            "BAD_VALUE",
        ),
        ("  selector:\n    matchLabels: {app: shop}\n", "", "spec.selector", 7, "REQUIRED_FIELD"),
        ("replicas: 3", "replicas: -1", "spec.replicas", 7, "BAD_VALUE"),
        ("replicas: 3", "replicas: three", "spec.replicas", 7, "WRONG_TYPE"),
        ("replicas: 3", "replica: 3", "spec.replica", 7, "UNKNOWN_FIELD"),
        ("replicas: 3", "strategy: {type: rolling}", "spec.strategy.type", 7, "BAD_VALUE"),
        ("    spec:\n", "    spec:\n      restartPolicy: Never\n", "spec.template.spec.restartPolicy", 14, "BAD_VALUE"),
    ],
)
def test_a_bad_deployment_is_refused_with_path_and_line(
    before: str, after: str, path: str, line: int, reason: str
) -> None:
    """A Deployment that would not find its own pods, or is malformed, is refused."""
    assert found(DEPLOYMENT.replace(before, after)) == [(path, line, reason)]


@pytest.mark.parametrize(
    ("text", "path", "line", "reason"),
    [
        (CONFIG_MAP.replace('"fast"', "1"), "[1].data.mode", 17, "WRONG_TYPE"),
        (CONFIG_MAP.replace("mode", "a/b"), '[1].data["a/b"]', 17, "BAD_VALUE"),
        (CONFIG_MAP + "binaryData: {mode: aGk=}\n", "[1].binaryData.mode", 18, "DUPLICATE_VALUE"),
        (CONFIG_MAP + "binaryData: {other: '!'}\n", "[1].binaryData.other", 18, "BAD_VALUE"),
        (CONFIG_MAP + "stringData: {}\n", "[1].stringData", 18, "UNKNOWN_FIELD"),
        (SECRET.replace("aHVudGVyMg==", "hunter2!"), "[1].data.password", 17, "BAD_VALUE"),
        (SECRET.replace("aHVudGVyMg==", "123456"), "[1].data.password", 17, "WRONG_TYPE"),
        (SECRET + "stringData: {a: 1}\n", "[1].stringData.a", 18, "WRONG_TYPE"),
        (CLAIM.replace("[ReadWriteOnce]", "[]"), "[1].spec.accessModes", 17, "BAD_VALUE"),
        (CLAIM.replace("ReadWriteOnce", "Often"), "[1].spec.accessModes[0]", 17, "BAD_VALUE"),
        (CLAIM.replace("1Gi", "big"), "[1].spec.resources.requests.storage", 20, "BAD_VALUE"),
        (CLAIM.replace("storage: 1Gi", "memory: 1Gi"), "[1].spec.resources.requests.storage", 20, "REQUIRED_FIELD"),
    ],
)
def test_bad_configuration_and_storage_are_refused_with_path_and_line(
    text: str, path: str, line: int, reason: str
) -> None:
    """ConfigMaps, Secrets and claims beside a Pod are checked as strictly as the Pod."""
    assert found(f"{POD}---\n{text}") == [(path, line, reason)]


def test_no_secret_value_gets_into_an_error() -> None:
    """What stands in a Secret is not repeated in any message."""
    text = f"{POD}---\n{SECRET.replace('aHVudGVyMg==', 'hunter2!')}type: [hunter2]\nimmutable: hunter2\n"
    error = refused(text)
    assert len(error.violations) == 3
    assert "hunter2" not in str(error) + "".join(found.message for found in error.violations)


def test_the_same_host_port_twice_is_refused() -> None:
    """Two containers of a pod cannot have one host port, unless the protocol differs."""
    first = "    ports: [{containerPort: 80, hostPort: 8080}]\n  - name: b\n    image: b\n"
    assert parse(pod_with(first + "    ports: [{containerPort: 80, hostPort: 8080, protocol: UDP}]\n"))
    error = the_violation(pod_with(first + "    ports: [{containerPort: 81, hostPort: 8080}]\n"))
    assert (error.field_path, error.line) == ("spec.containers[1].ports[0].hostPort", 14)
    assert "line 11" in error.message


def test_null_is_as_if_absent() -> None:
    """A field that is null is not there; in a map of text it is empty text."""
    text = POD.replace("  name: web\n", "  name: web\n  creationTimestamp: null\n  labels: {a: ~}\n")
    body = parse(text + "  volumes:\n  restartPolicy: ~\nstatus: {}\n").primary.body
    assert body["metadata"]["labels"] == {"a": ""}
    assert body["spec"].keys() == {"containers"}
    assert "status" not in body


def test_what_the_server_wrote_into_metadata_is_left_out() -> None:
    """The metadata that `kubectl get -o yaml` prints passes, and does not count."""
    written = """\
  creationTimestamp: "2024-01-01T00:00:00Z"
  generation: 3
  resourceVersion: "123"
  uid: 0b0e7b52-0000-4000-8000-000000000000
  selfLink: /api/v1/x
  managedFields: [{manager: kubectl, fieldsV1: {"f:spec": {}}}]
  ownerReferences: [{apiVersion: v1, kind: X, name: y, uid: z}]
"""
    manifest = parse(POD.replace("  name: web\n", "  name: web\n" + written))
    assert manifest.canonical_digest == parse(POD).canonical_digest


def test_a_file_mode_with_a_leading_zero_is_octal() -> None:
    """File modes mean what they mean to Kubernetes, however they are written."""
    for mode in ("0644", "0o644", "420"):
        volumes = f"  volumes: [{{name: a, configMap: {{name: b, defaultMode: {mode}}}}}]\n"
        assert parse(pod_with(volumes)).primary.body["spec"]["volumes"][0]["configMap"]["defaultMode"] == 0o644


@pytest.mark.parametrize(
    "image",
    [
        "nginx",
        "nginx:1.27",
        "library/nginx",
        "localhost/bb:1",
        "registry.example:5000/team/app_x/y--z:v1.0_rc-1",
        "Registry.Example/app",
        "docker.io/library/nginx:latest@sha256:" + "a" * 64,
        "nginx@sha256:" + "0" * 64,
    ],
)
def test_image_references_are_recognised(image: str) -> None:
    """Hosts, ports, tags and digests are all parts of an image reference."""
    assert parse(POD.replace("nginx:latest", image)).primary.body["spec"]["containers"][0]["image"] == image


def test_a_pod_with_everything_is_accepted() -> None:
    """A Pod that uses what Kubernetes offers passes as it is."""
    manifest = parse(
        pod_with("""\
    command: [sh, -c]
    args: ["echo $HOME"]
    workingDir: /srv
    ports:
    - {name: http, containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1, protocol: TCP}
    env:
    - {name: PLAIN, value: "1"}
    - {name: EMPTY}
    - name: FROM_SECRET
      valueFrom: {secretKeyRef: {name: token, key: password, optional: true}}
    - name: FROM_FIELD
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    envFrom:
    - prefix: CFG_
      configMapRef: {name: settings}
    resources:
      requests: {cpu: 0.5, memory: 128974848, example.com/gpu: 1}
      limits: {cpu: "2", memory: 1Gi, ephemeral-storage: 1G, example.com/gpu: 1}
    volumeMounts:
    - {name: cfg, mountPath: /etc/cfg, readOnly: true, subPath: a/b}
    - {name: data, mountPath: /data}
    livenessProbe: {httpGet: {path: /, port: http, scheme: HTTP}, periodSeconds: 5}
    readinessProbe: {exec: {command: [true-ish]}, initialDelaySeconds: 1}
    startupProbe: {tcpSocket: {port: 80}}
    lifecycle: {preStop: {sleep: {seconds: 1}}}
    securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
    imagePullPolicy: IfNotPresent
    terminationMessagePolicy: File
  initContainers:
  - {name: setup, image: busybox, command: [sh]}
  - {name: sidecar, image: busybox, restartPolicy: Always, readinessProbe: {grpc: {port: 1}}}
  volumes:
  - {name: cfg, configMap: {name: settings, items: [{key: mode, path: mode, mode: 0400}]}}
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - name: scratch
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  - {name: all, projected: {sources: [{secret: {name: token}}, {downwardAPI: {items: []}}]}}
  - name: nothing
    emptyDir:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 5
  hostname: web
  hostAliases: [{ip: 10.0.0.1, hostnames: [db]}]
  dnsConfig: {nameservers: [1.1.1.1], options: [{name: ndots, value: "2"}]}
  nodeSelector: {disk: ssd}
  tolerations: [{key: a, operator: Exists, effect: NoSchedule}]
  imagePullSecrets: [{name: registry}]
  securityContext: {fsGroup: 1000, sysctls: [{name: net.core.somaxconn, value: "1024"}]}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
    {matchExpressions: [{key: a, operator: In, values: [b]}]}]}}}
""")
        + f"---\n{CONFIG_MAP}---\n{SECRET}---\n{CLAIM}"
    )
    assert manifest.primary.body["spec"]["volumes"][0]["configMap"]["items"][0]["mode"] == 0o400


def test_a_deployment_with_labels_and_expressions_is_accepted() -> None:
    """Selectors may use expressions that the template's labels satisfy."""
    expressions = (
        "    matchExpressions: [{key: tier, operator: In, values: [front]}, {key: x, operator: DoesNotExist}]\n"
    )
    text = DEPLOYMENT.replace("  template:\n", expressions + "  template:\n", 1)
    document = parse(text).primary
    assert document.labels == {}
    assert document.body["spec"]["selector"]["matchExpressions"][0]["key"] == "tier"
