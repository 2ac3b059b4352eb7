"""From podman's lists to observations; the entries are as podman 4.3.1 gives them."""

from __future__ import annotations

from typing import Any

import pytest

from services.engines.engine import ExitStatus, PortMapping, WorkloadState
from services.engines.podman.observe import assemble, fingerprint, seconds
from services.identity import LABEL_NODE_ID
from tests.unit.engines_pods.samples import NODE, OWNERSHIP, WORKLOAD

LABELS = OWNERSHIP.labels()
NEVER = -62135596800


def pod(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A listed pod."""
    return {
        "Id": f"p{number}",
        "Name": f"{WORKLOAD}-{number}",
        "Created": "2026-01-02T03:04:05.678901234Z",
        "Labels": LABELS,
        **fields,
    }


def listed(name: str = "main", number: int = 0, **fields: Any) -> dict[str, Any]:
    """A listed container, running."""
    return {
        "Id": f"{name}{number}",
        "Names": [f"{WORKLOAD}-{number}-{name}"],
        "Pod": f"p{number}",
        "Image": "localhost/bb:1",
        "State": "running",
        "Pid": 7,
        "StartedAt": 1767323045,
        "ExitedAt": NEVER,
        "ExitCode": 0,
        "Ports": None,
        **fields,
    }


def test_a_running_pod_is_told_with_all_its_facts() -> None:
    """A running container has its manifest's name, image and start; the workload its owner, pods and time of making."""
    observed = assemble(NODE, [pod()], [listed()], {"main0": {"RestartCount": 2, "State": {}}})[WORKLOAD]
    (component,) = observed.components
    assert (component.display_name, component.image, component.component_id) == ("main", "localhost/bb:1", "main0")
    assert (component.state, component.restart_count, component.start_time) == (WorkloadState.RUNNING, 2, 1767323045.0)
    assert component.exit_status is None
    assert observed.ownership.labels() == LABELS
    assert observed.create_time == pytest.approx(1767323045.678901)
    assert observed.details == {"pods": [f"{WORKLOAD}-0"]}


@pytest.mark.parametrize(
    ("state", "code", "oom", "told", "reason"),
    [
        ("created", 0, False, WorkloadState.PENDING, ""),
        ("configured", 0, False, WorkloadState.PENDING, ""),
        ("initialized", 0, False, WorkloadState.STARTING, ""),
        ("running", 0, False, WorkloadState.RUNNING, ""),
        ("paused", 0, False, WorkloadState.DEGRADED, "Paused"),
        ("stopping", 0, False, WorkloadState.STOPPING, ""),
        ("stopped", 0, False, WorkloadState.SUCCEEDED, "Completed"),
        ("exited", 0, False, WorkloadState.SUCCEEDED, "Completed"),
        ("exited", 3, False, WorkloadState.FAILED, "Error"),
        ("exited", 137, True, WorkloadState.FAILED, "OOMKilled"),
        ("removing", 0, False, WorkloadState.STOPPING, ""),
        ("something new", 0, False, WorkloadState.UNKNOWN, ""),
    ],
)
def test_states_mean_what_podman_means(state: str, code: int, oom: bool, told: WorkloadState, reason: str) -> None:
    """Each of podman's states is told as ours, and an end with its code and cause."""
    detail = {"main0": {"State": {"ExitCode": code, "OOMKilled": oom, "FinishedAt": "2026-01-02T03:04:06Z"}}}
    (component,) = assemble(NODE, [pod()], [listed(State=state, ExitCode=code)], detail)[WORKLOAD].components
    assert (component.state, component.reason) == (told, reason)
    if state in ("exited", "stopped"):
        assert component.exit_status == ExitStatus(exit_code=code, oom_killed=oom, finish_time=1767323046.0)


def test_an_end_is_told_without_an_inspection_too() -> None:
    """Where the inspection came too late the list's own words count."""
    ended = listed(State="exited", ExitCode=4, ExitedAt=1767323050)
    (component,) = assemble(NODE, [pod()], [ended], {"main0": {}})[WORKLOAD].components
    assert component.exit_status == ExitStatus(exit_code=4, finish_time=1767323050.0)


def test_ports_are_each_told_once() -> None:
    """All containers of a pod list its ports, and neighbours as one range: each port is told once."""
    ports = [
        {"host_ip": "", "container_port": 80, "host_port": 8080, "range": 2, "protocol": "tcp"},
        {"host_ip": "127.0.0.1", "container_port": 53, "host_port": 5353, "range": 1, "protocol": "udp"},
    ]
    observed = assemble(NODE, [pod()], [listed("a", Ports=ports), listed("b", Ports=ports)], {})[WORKLOAD]
    assert observed.ports == (
        PortMapping(container_port=53, host_port=5353, host_ip="127.0.0.1", protocol="UDP"),
        PortMapping(container_port=80, host_port=8080),
        PortMapping(container_port=81, host_port=8081),
    )


def test_replicas_are_one_workload_in_order() -> None:
    """Pods of one workload are one observation, its components in the order of the replicas."""
    pods = [pod(10), pod(2), pod(0)]
    observed = assemble(NODE, pods, [listed(number=number) for number in (2, 0, 10)], {})[WORKLOAD]
    assert [component.replica for component in observed.components] == [0, 2, 10]
    assert observed.details == {"pods": [f"{WORKLOAD}-{number}" for number in (0, 2, 10)]}


def test_only_this_nodes_workloads_are_told() -> None:
    """Pods of another node, canaries and strangers' pods are not told; an empty pod of ours is."""
    others = [
        pod(1, Labels={**LABELS, LABEL_NODE_ID: "c" * 40}),
        pod(2, Labels={LABEL_NODE_ID: NODE}),
        pod(3, Labels=None),
    ]
    assert assemble(NODE, others, [], {}) == {}
    assert assemble(NODE, [pod()], [], {})[WORKLOAD].components == ()


@pytest.mark.parametrize(
    "change", [{"State": "exited"}, {"Pid": 8}, {"StartedAt": 1}, {"ExitedAt": 5}, {"ExitCode": 1}]
)
def test_every_change_of_a_container_asks_for_an_inspection(change: dict[str, Any]) -> None:
    """A container that is as it was need not be inspected; one that changed in any way must be."""
    assert fingerprint(listed()) == fingerprint(listed())
    assert fingerprint(listed()) != fingerprint(listed(**change))


@pytest.mark.parametrize(
    ("time", "told"),
    [
        ("2026-01-02T03:04:05.123456789Z", 1767323045.123456),
        ("2026-01-02T04:04:05+01:00", 1767323045.0),
        (1767323045, 1767323045.0),
        ("0001-01-01T00:00:00Z", None),
        (NEVER, None),
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_times_are_read_or_never(time: object, told: float | None) -> None:
    """All of podman's ways to write a time are read, and its ways to say never are None."""
    assert seconds(time) == told
