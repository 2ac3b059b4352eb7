"""What is written on a container is what its supervisor reads."""

from __future__ import annotations

from typing import Any

from services.engines.podman.supervision import sightings
from services.engines.pods.supervision import ANNOTATION, annotation
from services.engines.probes import HttpGet, TcpSocket
from services.engines.restarts import Exit, Policy
from services.identity import LABEL_WORKLOAD_ID

CONTAINER: dict[str, Any] = {
    "name": "main",
    "image": "busybox",
    "env": [{"name": "PASSWORD", "value": "secret"}],
    "ports": [{"name": "http", "containerPort": 8080}],
    "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 5},
    "readinessProbe": {"tcpSocket": {"port": 81}},
}
SPEC: dict[str, Any] = {"containers": [CONTAINER], "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 7}
POD: dict[str, Any] = {"Id": "p", "Name": "web-0", "InfraId": "i", "Labels": {LABEL_WORKLOAD_ID: "w"}}
LISTED: dict[str, Any] = {"Id": "c", "Pod": "p", "Names": ["web-0-main"]}
STARTED, FINISHED = "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:02.5Z"


def seen(annotations: dict[str, str], **state: object) -> list[Any]:
    """What is seen of the container in this state."""
    detail = {"Config": {"Annotations": annotations}, "State": {"StartedAt": STARTED, **state}}
    return list(sightings([POD], [LISTED], {"c": detail}))


def test_the_orders_of_a_container_come_back() -> None:
    """Policy, grace period and probes are read back, ports by their names; nothing else of it is kept."""
    kept = annotation(SPEC, CONTAINER)
    assert "secret" not in kept[ANNOTATION]
    (found,) = seen(kept, Status="running")
    assert (found.name, found.workload_id, found.infra_id, found.running) == ("main", "w", "i", True)
    assert (found.orders.policy, found.orders.grace_seconds) == (Policy.ON_FAILURE, 7.0)
    assert (found.orders.host_network, found.exit) == (False, None)
    assert found.orders.probes.liveness.handler == HttpGet(port=8080)
    assert found.orders.probes.readiness.handler == TcpSocket(port=81)
    assert found.orders.probes.startup is None


def test_an_exit_is_read_with_its_reason() -> None:
    """Exit code, OOM and times make the exit; before podman has cleaned up there is none."""
    kept = annotation(SPEC, CONTAINER)
    (found,) = seen(kept, Status="exited", ExitCode=137, OOMKilled=True, FinishedAt=FINISHED)
    assert found.exit == Exit(
        exit_code=137, reason="OOMKilled", start_time=found.started_at, finish_time=found.started_at + 2
    )
    assert seen(kept, Status="exited", ExitCode=0, FinishedAt=FINISHED)[0].exit.reason == "Completed"
    assert seen(kept, Status="exited", ExitCode=2, FinishedAt=FINISHED)[0].exit.reason == "Error"
    assert seen(kept, Status="stopped", ExitCode=2)[0].exit is None


def test_a_container_without_orders_is_not_supervised() -> None:
    """What carries no annotation, or one that cannot be read, is left alone."""
    assert seen({}, Status="running") == []
    assert seen({ANNOTATION: "{"}, Status="running") == []
    assert seen({ANNOTATION: '{"container": {"livenessProbe": {}}}'}, Status="running") == []
