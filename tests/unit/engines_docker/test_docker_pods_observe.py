"""What is read of a pod's containers."""

from __future__ import annotations

from typing import Any

from services.engines.docker.pods.observe import assemble, cut_off, sightings
from services.engines.engine import Role, WorkloadState
from services.engines.pods import supervision
from services.identity import LABEL_NODE_ID, LABEL_WORKLOAD_ID

NODE, WORKLOAD = "a" * 40, "beemesh-web-12345678"
EARLY, LATE = "2026-01-01T00:00:01.5Z", "2026-01-01T00:00:09Z"
NEVER = "0001-01-01T00:00:00Z"
ORDERS = supervision.annotation({"restartPolicy": "OnFailure"}, {"name": "main"})


def container(name: str, *, role: str = "main", infra: str = "i", replica: int = 0, **state: Any) -> dict[str, Any]:
    """An inspection."""
    return {
        "Id": name,
        "Created": EARLY,
        "Name": f"/{name}",
        "Config": {
            "Image": "docker.io/library/busybox:latest",
            "Labels": {
                LABEL_NODE_ID: NODE,
                LABEL_WORKLOAD_ID: WORKLOAD,
                "beemesh.io/pod": f"{WORKLOAD}-{replica}",
                "beemesh.io/replica": str(replica),
                "beemesh.io/container": name,
                "beemesh.io/role": role,
                **(ORDERS if role == "main" else {}),
            },
        },
        "HostConfig": {"NetworkMode": "net" if role == "infra" else f"container:{infra}"},
        "State": {"Status": "running", "StartedAt": EARLY, "FinishedAt": NEVER, **state},
        "NetworkSettings": {
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]} if role == "infra" else {}
        },
    }


INFRA = container("i", role="infra")


def test_a_pod_is_its_containers_without_what_holds_its_network() -> None:
    """Init containers first, by replica; the ports are the pod's; another node's are not seen."""
    found = assemble(
        NODE,
        [
            container("main", replica=1, infra="j"),
            container("first", role="init", Status="exited", ExitCode=0, FinishedAt=LATE),
            container("main"),
            INFRA,
            container("j", role="infra", replica=1),
        ],
        [],
    )[WORKLOAD]
    assert [(each.display_name, each.replica, each.role) for each in found.components] == [
        ("first", 0, Role.INIT),
        ("main", 0, Role.MAIN),
        ("main", 1, Role.MAIN),
    ]
    assert found.components[0].state is WorkloadState.SUCCEEDED
    assert [port.host_port for port in found.ports] == [8080]
    assert assemble("b" * 40, [INFRA], []) == {}


def test_what_is_left_of_a_workload_is_seen_too() -> None:
    """A network, or containers whose infra container is gone, are a workload without components."""
    network = {"Labels": {LABEL_NODE_ID: NODE, LABEL_WORKLOAD_ID: WORKLOAD, "beemesh.io/pod": WORKLOAD}}
    assert assemble(NODE, [], [network])[WORKLOAD].components == ()
    assert assemble(NODE, [container("main")], [])[WORKLOAD].components == ()
    assert list(sightings([container("main")])) == []


def test_an_exit_is_seen_once_docker_knows_it() -> None:
    """With its code, reason and times; who never ran has no run, and init containers are not kept alive."""
    ended = container("main", Status="exited", ExitCode=137, OOMKilled=True, FinishedAt=LATE)
    (seen,) = sightings([INFRA, ended, container("first", role="init")])
    assert (seen.running, seen.run, seen.infra_id) == (False, EARLY, "i")
    assert seen.exit is not None
    assert (seen.exit.exit_code, seen.exit.reason) == (137, "OOMKilled")
    assert seen.exit.start_time is not None
    assert seen.exit.finish_time == seen.exit.start_time + 7.5
    (fresh,) = sightings([INFRA, container("main", Status="created", StartedAt=NEVER)])
    assert (fresh.running, fresh.run, fresh.exit) == (False, "", None)


def test_who_runs_without_its_network_is_told() -> None:
    """When what holds it has ended, or runs anew since; not at its first start, whatever the clock says."""
    main = container("main")
    assert list(cut_off([INFRA, main])) == []
    assert list(cut_off([container("i", role="infra", Status="exited", FinishedAt=LATE), main])) == ["main"]
    assert list(cut_off([container("i", role="infra", StartedAt=LATE, FinishedAt=EARLY), main])) == ["main"]
    assert list(cut_off([container("i", role="infra", StartedAt=LATE), main])) == []
    ended = container("main", Status="exited", FinishedAt=LATE)
    assert list(cut_off([container("i", role="infra", Status="exited", FinishedAt=LATE), ended])) == []
