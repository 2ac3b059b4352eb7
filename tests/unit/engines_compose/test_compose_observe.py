"""What docker's inspections and counters mean, and what changes of a project do to it."""

from __future__ import annotations

from typing import Any

import pytest

from services.engines.compose.observe import assemble, component, hashes
from services.engines.compose.runner import Project
from services.engines.compose.update import effect, keeping
from services.engines.diff import diff
from services.engines.docker_api.inspected import seconds
from services.engines.docker_api.stats import read
from services.engines.engine import Config, PortMapping, WorkloadState
from services.identity import Ownership
from services.manifests import parse

NODE = "a" * 40
OWNED = Ownership(node_id=NODE, deployment_id="shop", workload_id="beemesh-shop-1", manifest_hash="f" * 64).labels()
NEVER = "0001-01-01T00:00:00Z"


def container(number: int = 1, **state: Any) -> dict[str, Any]:
    """As docker inspects it."""
    marks = {
        **OWNED,
        "com.docker.compose.project": "bm-beemesh-shop-1",
        "com.docker.compose.service": "web",
        "com.docker.compose.container-number": str(number),
    }
    return {
        "Id": f"{number:064x}",
        "Name": f"/bm-beemesh-shop-1-web-{number}",
        "Created": f"2026-01-02T03:04:0{number}.123456789Z",
        "RestartCount": 0,
        "State": {"Status": "running", "StartedAt": "2026-01-02T03:04:05Z", "FinishedAt": NEVER, **state},
        "Config": {"Image": "example:1", "Labels": marks},
        "NetworkSettings": {"Ports": {}},
    }


@pytest.mark.parametrize(
    ("state", "expected", "reason"),
    [
        ({"Status": "created"}, WorkloadState.PENDING, ""),
        ({"Status": "created", "Error": "no such file"}, WorkloadState.PENDING, "StartError"),
        ({"Status": "running"}, WorkloadState.RUNNING, ""),
        ({"Status": "paused"}, WorkloadState.DEGRADED, "Paused"),
        ({"Status": "restarting", "ExitCode": 3}, WorkloadState.STARTING, "CrashLoopBackOff"),
        ({"Status": "removing"}, WorkloadState.STOPPING, ""),
        ({"Status": "exited", "ExitCode": 0}, WorkloadState.SUCCEEDED, "Completed"),
        ({"Status": "exited", "ExitCode": 7}, WorkloadState.FAILED, "Error"),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, WorkloadState.FAILED, "OOMKilled"),
        ({"Status": "dead", "ExitCode": 0}, WorkloadState.FAILED, "Error"),
        ({"Status": "something new"}, WorkloadState.UNKNOWN, ""),
    ],
)
def test_a_state_is_told_with_its_reason(state: dict[str, Any], expected: WorkloadState, reason: str) -> None:
    """Docker's words in ours."""
    found = component(container(**state))
    assert (found.state, found.reason) == (expected, reason)
    assert (found.exit_status is None) is (state["Status"] not in ("exited", "dead"))


@pytest.mark.parametrize(
    ("health", "ready", "once"),
    [("starting", False, False), ("healthy", True, True), ("unhealthy", False, True), ("none", None, False)],
)
def test_a_healthcheck_says_who_is_ready(health: str, ready: bool | None, once: bool) -> None:
    """What is sick was, or should long have been, well."""
    found = component(container(Health={"Status": health, "Log": [{"Output": "why\n"}]}))
    assert (found.ready, found.ready_once) == (ready, once)
    assert ("why" in found.message) is (health == "unhealthy")


def test_ports_are_those_of_the_host() -> None:
    """Of every replica; every address is one, not one for each family."""
    one, two = container(1), container(2)
    one["NetworkSettings"]["Ports"] = {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
        "9/tcp": None,
    }
    two["NetworkSettings"]["Ports"] = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}]}
    (found,) = assemble(NODE, [one, two], []).values()
    assert found.ports == (
        PortMapping(container_port=53, host_port=5353, host_ip="127.0.0.1", protocol="UDP"),
        PortMapping(container_port=80, host_port=8080),
        PortMapping(container_port=80, host_port=32768, host_ip="127.0.0.1"),
    )
    assert [(each.display_name, each.replica) for each in found.components] == [("web", 0), ("web", 1)]


def test_only_this_nodes_workloads_are_seen() -> None:
    """One of which a network alone is left is there, with nothing that runs; another node's is not."""
    network = {"Id": "n", "Labels": {**OWNED, "com.docker.compose.network": "default"}}
    (left,) = assemble(NODE, [], [network]).values()
    assert (left.components, left.ownership.workload_id) == ((), "beemesh-shop-1")
    assert assemble("b" * 40, [container()], [network]) == {}
    assert assemble(NODE, [container()], [network]).keys() == {"beemesh-shop-1"}


def test_of_what_each_was_made_is_known() -> None:
    """By service, network and volume; what has no such label is passed over."""
    marks = {**OWNED, "beemesh.io/manifest-hash": "1" * 16}
    network = {"Labels": {**marks, "com.docker.compose.network": "back"}}
    volume = {"Labels": {**marks, "com.docker.compose.volume": "data"}}
    found = hashes([container()], [network, {"Labels": None}], [volume, {"Labels": marks}])
    assert (found.services, found.networks, found.volumes) == (
        {"web": "f" * 16},
        {"back": "1" * 16},
        {"data": "1" * 16},
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2026-01-02T03:04:05.5Z", 1767323045.5), ("2026-01-02T03:04:05.123456789Z", 1767323045.123456), (NEVER, None)],
)
def test_times_are_seconds_since_1970(text: str, expected: float | None) -> None:
    """Docker's "never" is none."""
    assert seconds(text) == expected


def test_use_is_read_from_two_looks() -> None:
    """Cores over the time between; memory without what the kernel may take back; networks together."""
    counters = {
        "read": "2026-01-02T03:04:06Z",
        "preread": "2026-01-02T03:04:05Z",
        "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000}},
        "precpu_stats": {"cpu_usage": {"total_usage": 1_000_000_000}},
        "memory_stats": {"usage": 1000, "stats": {"total_inactive_file": 300}},
        "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 10, "tx_bytes": 20}},
    }
    sample = read("c", counters)
    assert (sample.cpu_cores, sample.memory_bytes) == (0.5, 700)
    assert (sample.network_rx_bytes, sample.network_tx_bytes) == (11, 22)
    first = read("c", {**counters, "preread": NEVER, "networks": None})
    assert (first.cpu_cores, first.network_rx_bytes) == (None, None)


BASE = "services:\n  web: {image: a, environment: {A: x}}\n  db: {image: b}\nvolumes: {data: }\n"


@pytest.mark.parametrize(
    ("old", "new", "forces"),
    [
        ("A: x}}", "A: x}, deploy: {replicas: 2}}", {""}),
        ("image: b}", "image: b, scale: 3}", {""}),
        ("A: x", "A: y", {"restart"}),
        ("db: {image: b}", "db: {image: b}\n  job: {image: c}", {""}),
        ("  db: {image: b}\n", "", {""}),
        ("{data: }", "{data: , more: }", {"replace"}),
        ("services:", "x-beemesh: {annotations: {note: new}}\nservices:", {""}),
        ("services:", "x-beemesh: {annotations: {beemesh.io/resources.cpu: '2'}}\nservices:", {"replace"}),
        ("services:", "version: '3'\nx-mine: {a: 1}\nservices:", {""}),
    ],
)
def test_what_a_change_forces(old: str, new: str, forces: set[str]) -> None:
    """A service among several is made anew alone; what is common to all replaces."""
    before, after = parse(BASE), parse(BASE.replace(old, new))
    assert {effect(each, after) for each in diff(before, Config(), after, Config())} == forces


def test_of_a_single_service_a_change_replaces() -> None:
    """It is all there is."""
    before, after = parse("services: {web: {image: a}}\n"), parse("services: {web: {image: b}}\n")
    assert {effect(each, after) for each in diff(before, Config(), after, Config())} == {"replace"}
    assert {effect(each, before) for each in diff(before, Config(), before, Config(env={"A": "1"}))} == {"replace"}
    assert {effect(each, before) for each in diff(before, Config(), before, Config(replicas=2))} == {""}


def test_only_services_that_differ_get_the_new_hash() -> None:
    """How many there are is no difference; without the earlier project all differ."""

    def project(**services: dict[str, Any]) -> Project:
        marked = {name: {"labels": {"beemesh.io/manifest-hash": "old"}, **each} for name, each in services.items()}
        return Project(name="bm-x", model={"services": marked})

    before = project(web={"image": "a", "scale": 1}, db={"image": "b"})
    after = project(web={"image": "a", "scale": 3}, db={"image": "c"}, job={"image": "d"})

    def made(found: Project) -> dict[str, str]:
        return {name: each["labels"]["beemesh.io/manifest-hash"] for name, each in found.model["services"].items()}

    assert made(keeping(before, after, "new")) == {"web": "old", "db": "new", "job": "new"}
    assert made(keeping(None, after, "new")) == {"web": "new", "db": "new", "job": "new"}


def test_a_replica_is_counted_and_not_numbered() -> None:
    """Compose gives a number out once: the container that takes a lost one's place has another."""
    left = container(number=3), container(number=5)
    (found,) = assemble(NODE, left, ()).values()
    assert [each.place for each in found.components] == ["0/web", "1/web"]
