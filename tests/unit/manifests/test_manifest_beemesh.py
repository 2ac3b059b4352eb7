"""The kinds of beemesh.io/v1 are checked strictly, each fault with path and line."""

from __future__ import annotations

import pytest

from services.manifests import parse
from tests.unit.manifests.samples import FUNCTION, MACHINE, found

SHA = "ab" * 32

FULL_MACHINE = f"""\
apiVersion: beemesh.io/v1
kind: VirtualMachine
metadata: {{name: vm, namespace: lab, labels: {{a: b}}}}
spec:
  image: {{url: "https://images.example/a.qcow2", sha256: {SHA}, format: qcow2}}
  vcpus: 2
  memory: 4GB
  disk: 21474836480
  accel: auto
  runPolicy: RerunOnFailure
  terminationGracePeriodSeconds: 30
  cloudInit: {{userData: "#cloud-config", networkData: "", sshAuthorizedKeys: [ssh-ed25519 AAAA], hostname: vm}}
  network: {{mode: user, ports: [{{name: ssh, guestPort: 22, hostPort: 0, protocol: TCP, hostIP: 127.0.0.1}}]}}
  kernelBoot: {{kernel: /k, initrd: /i, cmdline: console=ttyS0}}
  readiness: {{tcpPort: 22}}
"""

FULL_FUNCTION = f"""\
apiVersion: beemesh.io/v1
kind: Function
metadata: {{name: fn}}
spec:
  runtime: python:3.9
  handler: main.process
  memory: 512Mi
  timeout: 1m30s
  concurrency: 4
  env: [{{name: A, value: b}}]
  code: {{archive: {{url: "https://code.example/a.zip", sha256: {SHA}}}}}
  trigger: {{http: {{path: /}}}}
"""


@pytest.mark.parametrize(
    "text",
    [
        MACHINE,
        FULL_MACHINE,
        MACHINE.replace("ubuntu:22.04", "{path: /images/a.qcow2}"),
        MACHINE.replace("ubuntu:22.04", "{containerDisk: quay.example/a:1}"),
        MACHINE.replace("image: ubuntu:22.04", "kernelBoot: {kernel: /k}"),
        FUNCTION,
        FULL_FUNCTION,
        FUNCTION + "  code: {inline: 'def process(e): return e'}\n",
        FUNCTION + "  code: {files: {lib/main.py: '', a.txt: b}}\n",
        FUNCTION + "  code: {wasm: {path: /f.wasm}}\n  timeout: 2.5\n",
        FUNCTION + "  code: {image: localhost/f:1}\n  trigger: {http: {}}\n",
        FUNCTION + "  trigger: {http: {path: /a, port: 8080}}\n",
    ],
)
def test_every_documented_form_is_accepted(text: str) -> None:
    """The examples are valid as they are, and so is each optional field."""
    assert parse(text).primary.body["spec"]


@pytest.mark.parametrize(
    ("before", "after", "path", "line", "reason"),
    [
        ("vcpus: 2", "vcpus: 0", "spec.vcpus", 9, "BAD_VALUE"),
        ("vcpus: 2", "vcpus: two", "spec.vcpus", 9, "WRONG_TYPE"),
        ("vcpus: 2", "cpus: 2", "spec.vcpus", 8, "REQUIRED_FIELD"),
        ("memory: 4Gi", "memory: lots", "spec.memory", 10, "BAD_VALUE"),
        ("memory: 4Gi", "memory: 0", "spec.memory", 10, "BAD_VALUE"),
        ("memory: 4Gi", "memory: 0Gi", "spec.memory", 10, "BAD_VALUE"),
        ("memory: 4Gi", "memory: -4Gi", "spec.memory", 10, "BAD_VALUE"),
        ("  memory: 4Gi\n", "", "spec.memory", 8, "REQUIRED_FIELD"),
        ("disk: 20Gi", "disk: [20]", "spec.disk", 11, "WRONG_TYPE"),
        ("disk: 20Gi", "disks: 20Gi", "spec.disks", 11, "UNKNOWN_FIELD"),
        ("  image: ubuntu:22.04\n", "", "spec.image", 8, "REQUIRED_FIELD"),
        ("ubuntu:22.04", "{}", "spec.image", 8, "REQUIRED_FIELD"),
        ("ubuntu:22.04", "{path: /a, containerDisk: b}", "spec.image.containerDisk", 8, "BAD_VALUE"),
        ("ubuntu:22.04", "{url: https://a.example/b}", "spec.image.sha256", 8, "REQUIRED_FIELD"),
        ("ubuntu:22.04", f"{{url: file:///etc/passwd, sha256: {SHA}}}", "spec.image.url", 8, "BAD_VALUE"),
        ("ubuntu:22.04", "{path: /a, sha256: abc}", "spec.image.sha256", 8, "BAD_VALUE"),
        ("disk: 20Gi", "accel: fast", "spec.accel", 11, "BAD_VALUE"),
        ("disk: 20Gi", "runPolicy: Sometimes", "spec.runPolicy", 11, "BAD_VALUE"),
        ("disk: 20Gi", "network: {mode: bridge}", "spec.network.mode", 11, "BAD_VALUE"),
        ("disk: 20Gi", "network: {ports: [{hostPort: 1}]}", "spec.network.ports[0].guestPort", 11, "REQUIRED_FIELD"),
        ("disk: 20Gi", "network: {ports: [{guestPort: 70000}]}", "spec.network.ports[0].guestPort", 11, "BAD_VALUE"),
        ("disk: 20Gi", "readiness: {}", "spec.readiness", 11, "REQUIRED_FIELD"),
        ("disk: 20Gi", "readiness: {console: '['}", "spec.readiness.console", 11, "BAD_VALUE"),
        ("disk: 20Gi", "readiness: {console: a, tcpPort: 1}", "spec.readiness.tcpPort", 11, "BAD_VALUE"),
        ("disk: 20Gi", "kernelBoot: {initrd: /a}", "spec.kernelBoot.kernel", 11, "REQUIRED_FIELD"),
        ("  name: ubuntu\n", "", "metadata.name", 4, "REQUIRED_FIELD"),
        ("name: ubuntu", "name: Ubuntu", "metadata.name", 4, "BAD_VALUE"),
    ],
)
def test_a_bad_machine_is_refused_with_path_and_line(
    before: str, after: str, path: str, line: int, reason: str
) -> None:
    """Each fault of a VirtualMachine is found where it stands."""
    assert (path, line, reason) in found(MACHINE.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "path", "line", "reason"),
    [
        ("runtime: python:3.9", "runtime: Python 3", "spec.runtime", 8, "BAD_VALUE"),
        ("  runtime: python:3.9\n", "", "spec.runtime", 8, "REQUIRED_FIELD"),
        ("handler: main.process", "handler: ''", "spec.handler", 9, "BAD_VALUE"),
        ("memory: 512Mi", "memory: .5", "spec.memory", 10, "WRONG_TYPE"),
        ("memory: 512Mi", "timeout: soon", "spec.timeout", 10, "BAD_VALUE"),
        ("memory: 512Mi", "timeout: 0", "spec.timeout", 10, "BAD_VALUE"),
        ("memory: 512Mi", "timeout: 0s", "spec.timeout", 10, "BAD_VALUE"),
        ("memory: 512Mi", "concurrency: 0", "spec.concurrency", 10, "BAD_VALUE"),
        ("memory: 512Mi", "env: [{value: a}]", "spec.env[0].name", 10, "REQUIRED_FIELD"),
        ("memory: 512Mi", "code: {}", "spec.code", 10, "REQUIRED_FIELD"),
        ("memory: 512Mi", "code: {inline: a, image: b}", "spec.code.image", 10, "BAD_VALUE"),
        ("memory: 512Mi", "code: {files: {}}", "spec.code.files", 10, "BAD_VALUE"),
        ("memory: 512Mi", "code: {files: {../a: b}}", 'spec.code.files["../a"]', 10, "BAD_VALUE"),
        ("memory: 512Mi", "code: {files: {/a: b}}", 'spec.code.files["/a"]', 10, "BAD_VALUE"),
        ("memory: 512Mi", "code: {wasm: {}}", "spec.code.wasm", 10, "REQUIRED_FIELD"),
        (
            "memory: 512Mi",
            "code: {archive: {url: http://a.example/b}}",
            "spec.code.archive.sha256",
            10,
            "REQUIRED_FIELD",
        ),
        ("memory: 512Mi", "trigger: {cron: a}", "spec.trigger.http", 10, "REQUIRED_FIELD"),
        ("memory: 512Mi", "trigger: {http: {path: a}}", "spec.trigger.http.path", 10, "BAD_VALUE"),
        ("memory: 512Mi", "trigger: {http: {port: 70000}}", "spec.trigger.http.port", 10, "BAD_VALUE"),
        ("memory: 512Mi", "memry: 1", "spec.memry", 10, "UNKNOWN_FIELD"),
    ],
)
def test_a_bad_function_is_refused_with_path_and_line(
    before: str, after: str, path: str, line: int, reason: str
) -> None:
    """Each fault of a Function is found where it stands."""
    assert (path, line, reason) in found(FUNCTION.replace(before, after))
