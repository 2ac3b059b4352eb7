"""What a Compose file may not do on this node, said by field and line before Compose sees any of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.engines.compose.fields import NodePolicy, check
from services.engines.engine import Severity
from services.manifests import parse

# By what is tried: the lines below `services: {web: {…}}` (from line 4 on), or a whole file; the path and the reason.
SERVICE = "services:\n  web:\n    image: example:1\n"
GUARDED = {
    "privileged": ("    privileged: true\n", "services.web.privileged"),
    "a bind mount": ("    volumes: [/etc:/host]\n", "services.web.volumes[0]"),
    "a relative bind mount": ("    volumes: [./data:/host]\n", "services.web.volumes[0]"),
    "a bind mount of the home": ("    volumes: [~/x:/host]\n", "services.web.volumes[0]"),
    "a long bind mount": ("    volumes: [{type: bind, source: /etc, target: /host}]\n", "services.web.volumes[0]"),
    "a volume that is a path": ("    volumes: [{type: volume, source: /etc, target: /h}]\n", "services.web.volumes[0]"),
    "the host's network": ("    network_mode: host\n", "services.web.network_mode"),
    "another container's network": ("    network_mode: container:other\n", "services.web.network_mode"),
    "a network of the machine": ("    network_mode: bridge\n", "services.web.network_mode"),
    "the host's processes": ("    pid: host\n", "services.web.pid"),
    "another container's processes": ("    pid: container:other\n", "services.web.pid"),
    "the host's shared memory": ("    ipc: host\n", "services.web.ipc"),
    "the host's name": ("    uts: host\n", "services.web.uts"),
    "the host's users": ("    userns_mode: host\n", "services.web.userns_mode"),
    "the host's cgroup": ("    cgroup: host\n", "services.web.cgroup"),
    "a parent cgroup": ("    cgroup_parent: /x\n", "services.web.cgroup_parent"),
    "a device": ("    devices: [/dev/kvm]\n", "services.web.devices"),
    "a rule for devices": ("    device_cgroup_rules: ['c 1:3 mr']\n", "services.web.device_cgroup_rules"),
    "a GPU": ("    gpus: all\n", "services.web.gpus"),
    "a reserved device": (
        "    deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}\n",
        "services.web.deploy.resources.reservations.devices",
    ),
    "a capability": ("    cap_add: [CHOWN, SYS_ADMIN]\n", "services.web.cap_add[1]"),
    "a capability by its long name": ("    cap_add: [cap_net_admin]\n", "services.web.cap_add[0]"),
    "all capabilities": ("    cap_add: [ALL]\n", "services.web.cap_add[0]"),
    "no seccomp": ("    security_opt: ['seccomp:unconfined']\n", "services.web.security_opt[0]"),
    "a runtime": ("    runtime: kata\n", "services.web.runtime"),
    "docker's socket": ("    use_api_socket: true\n", "services.web.use_api_socket"),
    "a name for the whole machine": ("    container_name: web\n", "services.web.container_name"),
    "another project's volumes": ("    volumes_from: ['container:other']\n", "services.web.volumes_from[0]"),
    "another project's container": ("    external_links: [other]\n", "services.web.external_links"),
    "a log sent elsewhere": ("    logging: {driver: syslog}\n", "services.web.logging.driver"),
    "no end when memory ends": ("    oom_kill_disable: true\n", "services.web.oom_kill_disable"),
    "a volume that is a bind mount": (
        "volumes:\n  d:\n    driver_opts: {type: none, o: bind, device: /etc}\n",
        "volumes.d.driver_opts",
    ),
    "a volume of a plugin": ("volumes:\n  d:\n    driver: nfs\n", "volumes.d.driver"),
    "another workload's volume": ("volumes:\n  d:\n    external: true\n", "volumes.d.external"),
    "a volume by its global name": ("volumes:\n  d:\n    name: theirs\n", "volumes.d.name"),
    "another workload's network": ("networks:\n  n:\n    external: true\n", "networks.n.external"),
    "a network by its global name": ("networks:\n  n:\n    name: theirs\n", "networks.n.name"),
    "the machine's own network": ("networks:\n  n:\n    driver: macvlan\n", "networks.n.driver"),
}
NEVER = {
    "a program of the machine": (
        "    provider: {type: /bin/sh}\n",
        "services.web.provider",
        "FORBIDDEN_FIELD",
    ),
    "a service that poses as a Pod's": (
        "    labels: {beemesh.io/pod: web-0}\n",
        'services.web.labels["beemesh.io/pod"]',
        "FORBIDDEN_FIELD",
    ),
    "a service that poses as a Pod's, in a list": (
        "    labels: [beemesh.io/pod=web-0]\n",
        "services.web.labels[0]",
        "FORBIDDEN_FIELD",
    ),
    "a network that poses as a Pod's": (
        "networks: {n: {labels: {beemesh.io/pod: web-0}}}\n",
        'networks.n.labels["beemesh.io/pod"]',
        "FORBIDDEN_FIELD",
    ),
    "a model": ("    models: [llm]\n", "services.web.models", "FORBIDDEN_FIELD"),
    "another file to extend": (
        "    extends: {file: /etc/x.yaml, service: web}\n",
        "services.web.extends.file",
        "FORBIDDEN_FIELD",
    ),
    "another file to include": ("include: [git@example.org:x]\n", "include", "FORBIDDEN_FIELD"),
    "a build": ("    build: .\n", "services.web.build", "UNSUPPORTED_FIELD"),
    "a build by policy": ("    pull_policy: build\n", "services.web.pull_policy", "UNSUPPORTED_FIELD"),
    "a hook": ("    pre_stop: [{command: x}]\n", "services.web.pre_stop", "UNSUPPORTED_FIELD"),
    "a file of variables": ("    env_file: /etc/passwd\n", "services.web.env_file", "PATH_NOT_ALLOWED"),
    "a list of them": (
        "    env_file: [{path: /etc/passwd, required: false}]\n",
        "services.web.env_file[0].path",
        "PATH_NOT_ALLOWED",
    ),
    "a file of labels": ("    label_file: ./labels\n", "services.web.label_file", "PATH_NOT_ALLOWED"),
    "a secret's file": ("secrets:\n  s:\n    file: /etc/shadow\n", "secrets.s.file", "PATH_NOT_ALLOWED"),
    "a config's file": ("configs:\n  c:\n    file: ../../etc/passwd\n", "configs.c.file", "PATH_NOT_ALLOWED"),
    "a file by a variable": ("configs:\n  c:\n    file: ${F}\n", "configs.c.file", "PATH_NOT_ALLOWED"),
    "our environment": ("secrets:\n  s:\n    environment: HOME\n", "secrets.s.environment", "REFERENCE_NOT_FOUND"),
    "an external secret": ("secrets:\n  s:\n    external: true\n", "secrets.s.external", "UNSUPPORTED_FIELD"),
    "a field nobody knows": ("    new_power: 1\n", "services.web.new_power", "UNSUPPORTED_FIELD"),
    "a condition of a Swarm": (
        "    deploy: {placement: {constraints: [x]}}\n",
        "services.web.deploy.placement",
        "UNSUPPORTED_FIELD",
    ),
}


def found(text: str, policy: NodePolicy | None = None, variables: tuple[str, ...] = ()) -> list[tuple[str, str, int]]:
    """Path, reason and line of each error."""
    document = parse(text).primary
    issues = [each.issue(document) for each in check(document.body, policy or NodePolicy(), variables)]
    return [(issue.field_path, issue.reason, issue.line) for issue in issues if issue.severity is Severity.ERROR]


def line_of(addition: str, path: str) -> int:
    """The line of the innermost key of `path` in the addition, which begins at line 4."""
    keys = [word.split("[")[0] for word in path.split(".")]
    for key in reversed(keys):
        for number, line in enumerate(addition.splitlines()):
            if f"{key}:" in line:
                return 4 + number
    raise AssertionError(path)


@pytest.mark.parametrize("name", GUARDED)
def test_what_reaches_for_the_machine_needs_the_nodes_leave(name: str) -> None:
    """Without it HOST_ACCESS_DENIED with field and line; with it nothing is said."""
    addition, path = GUARDED[name]
    assert found(SERVICE + addition) == [(path, "HOST_ACCESS_DENIED", line_of(addition, path))]
    assert found(SERVICE + addition, NodePolicy(host_access=True)) == []


@pytest.mark.parametrize("name", NEVER)
def test_what_no_policy_grants_is_refused(name: str) -> None:
    """By field and line, on every node."""
    addition, path, reason = NEVER[name]
    for policy in (NodePolicy(), NodePolicy(host_access=True)):
        assert found(SERVICE + addition, policy) == [(path, reason, line_of(addition, path))]


def test_files_may_be_read_below_one_directory(tmp_path: Path) -> None:
    """A link that leads out of it, and a way around it, are outside."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to("/etc/passwd")
    policy = NodePolicy(file_root=tmp_path / "inside")
    for name, reasons in {
        f"{tmp_path}/inside/x.env": [],
        f"{tmp_path}/inside/link": ["PATH_NOT_ALLOWED"],
        f"{tmp_path}/inside/../x.env": ["PATH_NOT_ALLOWED"],
        f"{tmp_path}/inside-too/x.env": ["PATH_NOT_ALLOWED"],
        "x.env": ["PATH_NOT_ALLOWED"],
    }.items():
        assert [reason for _, reason, _ in found(f"{SERVICE}    env_file: [{name}]\n", policy)] == reasons


def test_the_owner_of_a_mounted_file_cannot_be_changed(tmp_path: Path) -> None:
    """Of one that Compose writes itself it can."""
    more = "    secrets: [{source: s, mode: 0400}, {source: t, mode: 0400, uid: '7'}]\n"
    more += f"secrets:\n  s: {{file: {tmp_path}/x}}\n  t: {{environment: T}}\n"
    expected = [("services.web.secrets[0].mode", "UNSUPPORTED_FIELD", 4)]
    assert found(SERVICE + more, NodePolicy(file_root=tmp_path), ("T",)) == expected


def test_what_compose_can_keep_is_not_mentioned() -> None:
    """An ordinary file."""
    text = """\
x-note: anything
services:
  web:
    image: ${IMAGE:-example:1}
    x-own: 1
    command: [httpd]
    environment: {A: b}
    ports: ["8080:80"]
    depends_on: {db: {condition: service_healthy}}
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 64M}}}
    networks: {front: {aliases: [www]}}
    cap_add: [NET_BIND_SERVICE]
    cap_drop: [ALL]
    security_opt: [no-new-privileges:true]
    privileged: false
    network_mode: service:db
    secrets: [s]
    restart: always
    logging: {driver: json-file}
  db:
    image: example:1
    healthcheck: {test: [CMD, "true"]}
    volumes: [data:/d, {type: tmpfs, target: /t}, /anonymous]
    profiles: [p]
secrets: {s: {environment: TOKEN}}
networks: {front: {internal: true}}
volumes: {data: }
"""
    assert found(text, variables=("TOKEN",)) == []


def test_what_has_no_effect_here_is_warned_of() -> None:
    """A Swarm's bookkeeping."""
    document = parse(SERVICE + "    deploy: {update_config: {parallelism: 2}}\n    develop: {watch: []}\n").primary
    issues = [each.issue(document) for each in check(document.body, NodePolicy(), ())]
    assert [(issue.severity, issue.reason, issue.line) for issue in issues] == [
        (Severity.WARNING, "IGNORED_FIELD", 4),
        (Severity.WARNING, "IGNORED_FIELD", 5),
    ]
