"""The containers, networks and volumes that docker is asked for."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from services.engines.compose.stamp import LogCap
from services.engines.docker.pods import pause
from services.engines.docker.pods.render import INFRA, NETWORK, SHARES_PROCESSES, render
from services.engines.docker.pods.storage import is_in_reach, parts
from services.engines.engine import Config, Resources, Spec
from services.engines.pods.plan import Plan, Pod
from services.engines.pods.supervision import ANNOTATION, orders
from services.engines.restarts import Policy
from services.identity import LABEL_NODE_ID
from services.manifests import parse
from tests.unit.engines_pods.samples import DEPLOYMENT, NODE, POD, WORKLOAD, pod, spec

MACHINE = Resources(cpu_cores=4.0, memory_bytes=8 << 30)


def plan(asked: Spec, *, own_pause: bool = True) -> Plan:
    """What docker is asked for."""
    return render(asked, machine=MACHINE, log_cap=LogCap(max_size="1m", max_files=2), own_pause=own_pause)


def made(asked: Spec, *, own_pause: bool = True) -> Pod:
    """The only pod."""
    (found,) = plan(asked, own_pause=own_pause).pods
    return found


def body(asked: Spec) -> dict[str, Any]:
    """What is posted for its only container."""
    (container,) = made(asked).mains
    return dict(container.body)


def of_pod(*lines: str) -> Spec:
    """A pod with these lines in its spec."""
    return spec(parse(POD.replace("spec:\n", "spec:\n" + "".join(f"  {line}\n" for line in lines), 1)))


def test_all_of_it_is_one_compose_project_whatever_the_manifest_says() -> None:
    """Compose's labels are ours: no label of the user's makes a pod part of another project, or another node's."""
    forged = {"com.docker.compose.project": "theirs", LABEL_NODE_ID: "forged", "app": "config"}
    found = made(spec(labels=forged))
    for labels in (found.body[INFRA]["Labels"], found.mains[0].body["Labels"]):
        assert labels["com.docker.compose.project"] == f"bm-{WORKLOAD}"
        assert (labels["com.docker.compose.container-number"], labels["com.docker.compose.oneoff"]) == ("1", "False")
        assert (labels[LABEL_NODE_ID], labels["beemesh.io/pod"], labels["app"]) == (NODE, f"{WORKLOAD}-0", "config")
    services = [
        each["com.docker.compose.service"] for each in (found.body[INFRA]["Labels"], found.mains[0].body["Labels"])
    ]
    assert services == ["_infra", "main"]


def test_services_of_several_workloads_do_not_mix() -> None:
    """With several documents a service is called by its document too."""
    both = parse(f"{POD}---\n{POD.replace('name: web', 'name: other')}")
    services = [each.mains[0].body["Labels"]["com.docker.compose.service"] for each in plan(spec(both)).pods]
    assert services == ["web-main", "other-main"]


def test_pods_of_a_workload_share_one_network() -> None:
    """All replicas join the same, which carries our labels; on the machine's network there is none, and no port."""
    first, second = plan(spec(parse(DEPLOYMENT))).pods
    assert first.body[NETWORK] == second.body[NETWORK]
    assert first.body[INFRA]["HostConfig"]["NetworkMode"] == first.body[NETWORK]["Name"] == WORKLOAD
    assert first.body[NETWORK]["Labels"]["beemesh.io/pod"] == WORKLOAD
    on_host = made(of_pod("hostNetwork: true")).body
    assert (on_host[NETWORK], on_host[INFRA]["HostConfig"]["NetworkMode"]) == (None, "host")
    assert "PortBindings" not in on_host[INFRA]["HostConfig"]


def test_what_holds_the_network_has_the_ports_and_no_rights() -> None:
    """Only host ports are published, on the infra container, which has no capability and writes no log."""
    ports = "ports: [{containerPort: 80}, {containerPort: 81, hostPort: 8081, hostIP: 127.0.0.1, protocol: UDP}]"
    found = made(spec(pod(ports)))
    host = found.body[INFRA]["HostConfig"]
    assert host["PortBindings"] == {"81/udp": [{"HostIp": "127.0.0.1", "HostPort": "8081"}]}
    assert found.body[INFRA]["ExposedPorts"] == {"81/udp": {}}
    assert (host["CapDrop"], host["LogConfig"]["Type"], host["IpcMode"]) == (["ALL"], "none", "shareable")
    assert "PortBindings" not in found.mains[0].body["HostConfig"]


def test_name_servers_are_the_manifests_own() -> None:
    """What holds the network writes them into the file that docker would fill; another image is not told to."""
    asked = of_pod(
        'dnsPolicy: "None"',
        "dnsConfig: {nameservers: [192.0.2.1], searches: [a, b], options: [{name: ndots, value: '2'}]}",
    )
    assert made(asked).body[INFRA]["Cmd"] == ["nameserver 192.0.2.1\nsearch a b\noptions ndots:2\n"]
    other = made(asked, own_pause=False).body[INFRA]
    assert "Cmd" not in other
    assert other["HostConfig"]["Dns"] == ["192.0.2.1"]
    assert "Cmd" not in made(of_pod("dnsConfig: {searches: [a]}")).body[INFRA]


def test_docker_restarts_nothing() -> None:
    """Who supervises a container finds what was asked for in its labels."""
    asked = body(of_pod("restartPolicy: OnFailure", "terminationGracePeriodSeconds: 7"))
    assert (asked["HostConfig"]["RestartPolicy"], asked["StopTimeout"]) == ({"Name": "no"}, 7)
    found = orders(asked["Labels"][ANNOTATION])
    assert found is not None
    assert (found.policy, found.grace_seconds) == (Policy.ON_FAILURE, 7)


def test_limits_are_what_docker_takes() -> None:
    """Nothing is swapped; a wish for less memory than docker takes for one is raised, a limit is not."""
    lines = ["resources:", "  limits: {cpu: 500m, memory: 64M}", "  requests: {cpu: 0.001, memory: 1Ki}"]
    host = body(spec(pod(*lines)))["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (64_000_000, 64_000_000, 6 << 20)
    assert (host["CpuQuota"], host["CpuPeriod"], host["CpuShares"]) == (50_000, 100_000, 2)
    assert body(spec(pod("resources: {limits: {memory: 1Mi}}")))["HostConfig"]["Memory"] == 1 << 20


def test_rights_are_dockers_words() -> None:
    """Users, groups, capabilities, SELinux, a root directory that cannot be written."""
    context = "securityContext: {runAsUser: 5, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, "
    context += "capabilities: {add: [CAP_CHOWN], drop: [ALL]}, seLinuxOptions: {type: t}}"
    asked = spec(parse(POD.replace("spec:\n", "spec:\n  securityContext: {fsGroup: 7}\n", 1) + f"    {context}\n"))
    (container,) = made(asked).mains
    host = container.body["HostConfig"]
    assert (container.user, host["GroupAdd"], host["ReadonlyRootfs"]) == ("5", ["7"], True)
    assert (host["CapAdd"], host["CapDrop"]) == (["CHOWN"], ["ALL"])
    assert host["SecurityOpt"] == ["label=type:t", "no-new-privileges"]


def test_commands_logs_and_variables_are_dockers_words() -> None:
    """A command replaces the entrypoint; logs are capped; the image's own health check is not run."""
    asked = body(spec(pod('command: [echo, "$(A)"]', "args: [x]", "env: [{name: A, value: v}]", "workingDir: /w")))
    assert (asked["Entrypoint"], asked["Cmd"], asked["WorkingDir"]) == (["echo", "v"], ["x"], "/w")
    assert asked["Env"] == ["HOSTNAME=web", "A=v"]
    assert asked["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert asked["Healthcheck"] == {"Test": ["NONE"]}


def test_processes_are_shared_where_that_is_asked_for() -> None:
    """The pod's, or the machine's where the node grants it."""
    assert made(of_pod("shareProcessNamespace: true")).body[SHARES_PROCESSES] is True
    assert made(spec()).body[SHARES_PROCESSES] is False
    host = body(of_pod("hostPID: true", "hostIPC: true"))["HostConfig"]
    assert (host["PidMode"], host["IpcMode"]) == ("host", "host")


def test_values_of_secrets_show_in_no_representation() -> None:
    """A Secret's value is in what is posted, and in no label or printed form."""
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: hush-hush}\n"
    text = POD + "    env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n" + f"---\n{secret}"
    found = made(spec(parse(text)))
    assert "A=hush-hush" in found.mains[0].body["Env"]
    assert "hush" not in repr(found) + str(found.mains[0].body["Labels"])


def test_parts_of_volumes_are_refused_by_line_where_dockers_storage_is_not_here(tmp_path: Path) -> None:
    """Parts of what is written, not files of ConfigMaps; whoever does not know where the storage is refuses nothing."""
    text = POD.replace("spec:\n", "spec:\n  volumes: [{name: v, emptyDir: {}}, {name: c, configMap: {name: c}}]\n", 1)
    text += "    volumeMounts: [{name: v, mountPath: /v, subPath: a}, {name: c, mountPath: /c, subPath: k}]\n"
    (issue,) = parts(parse(text), Config())
    assert (issue.field_path, issue.reason) == ("spec.containers[0].volumeMounts[0].subPath", "UNSUPPORTED_FIELD")
    assert issue.line == 11
    assert is_in_reach(None)
    assert not is_in_reach(tmp_path / "nowhere")


@pytest.mark.parametrize(("architecture", "number"), [("amd64", 62), ("arm64", 183)])
def test_the_program_is_an_executable_of_a_few_hundred_bytes(architecture: str, number: int) -> None:
    """Static, for its architecture, begun behind its headers, and with the file's name as its last bytes."""
    found = pause.program(architecture)
    assert found[:6] == b"\x7fELF\x02\x01"
    kind, machine, _, entry = struct.unpack_from("<HHIQ", found, 16)
    offset, address = struct.unpack_from("<QQ", found, 64 + 8)
    assert (kind, machine, entry - address + offset) == (2, number, 120)
    assert found.endswith(b"/etc/resolv.conf\0")
    assert len(found) < 512
