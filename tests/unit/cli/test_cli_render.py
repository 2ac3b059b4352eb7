"""How beectl prints what it gets."""

from __future__ import annotations

import json

import pytest
import yaml
from beemesh.engine.v1.workload_pb2 import Component, ExitStatus, Workload, WorkloadState
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.registry.v1.registry_service_pb2 import Engine
from beemesh.type.v1.types_pb2 import Condition
from google.protobuf.timestamp_pb2 import Timestamp

from services.cli import render
from services.cli.description import describe

NOW = 1_000_000.0


def deployment() -> pb2.Deployment:
    """One that runs a container and has run an init container."""
    running = Component(
        component_id="c1",
        display_name="web",
        state=WorkloadState.WORKLOAD_STATE_RUNNING,
        role=Component.ROLE_MAIN,
        ready=True,
        restart_count=2,
        last_exit=ExitStatus(exit_code=137, reason="OOMKilled", finish_time=Timestamp(seconds=int(NOW) - 300)),
    )
    done = Component(
        component_id="c0",
        display_name="prepare",
        state=WorkloadState.WORKLOAD_STATE_SUCCEEDED,
        role=Component.ROLE_INIT,
    )
    workload = Workload(workload_id="beemesh-web-1234", components=[done, running])
    workload.ports.add(container_port=80, host_port=8080, host_ip="127.0.0.1", protocol=1)
    return pb2.Deployment(
        deployment_id="web",
        state=pb2.DEPLOYMENT_STATE_ACTIVE,
        revision=3,
        instances=[pb2.Instance(node_id="ab", engine_id="podman", workload=workload)],
        create_time=Timestamp(seconds=int(NOW) - 7_500),
        decision=pb2.EngineDecision(
            selected_engine="podman",
            candidates=[
                pb2.EngineCandidate(
                    engine_id="docker", verdict=pb2.EngineCandidate.VERDICT_REJECTED, reason="UNHEALTHY", message="gone"
                )
            ],
        ),
    )


@pytest.mark.parametrize(
    ("stage", "selected", "expected"),
    [
        (pb2.SELECTION_STAGE_FORMAT, True, ["docker was passed over: UNHEALTHY: gone"]),
        (pb2.SELECTION_STAGE_ANNOTATION, True, ["docker was passed over: UNHEALTHY: gone"]),
        (pb2.SELECTION_STAGE_BEST_AVAILABLE, True, []),
        (pb2.SELECTION_STAGE_FORMAT, False, []),
    ],
)
def test_an_engine_that_was_meant_and_not_taken_is_named(
    stage: pb2.SelectionStage.ValueType, selected: bool, expected: list[str]
) -> None:
    """With its reason, where another one was taken; an engine that was just one more is not."""
    verdicts = pb2.EngineCandidate
    decision = pb2.EngineDecision(
        candidates=[
            verdicts(
                engine_id="docker", stage=stage, verdict=verdicts.VERDICT_REJECTED, reason="UNHEALTHY", message="gone"
            ),
            verdicts(engine_id="podman", verdict=verdicts.VERDICT_SELECTED if selected else verdicts.VERDICT_REJECTED),
        ]
    )
    assert render.passed_over(decision) == expected


def test_columns_are_aligned() -> None:
    """Every column begins at the same place on every line; an empty cell is a dash."""
    text = render.table(("A", "LONG"), [("a value", ""), ("b", "x")])
    assert text.splitlines() == ["A        LONG", "a value  -", "b        x"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (42, "42s"),
        (60, "1m"),
        (61, "1m"),
        (3_600, "1h"),
        (12_000, "3h20m"),
        (86_400, "1d"),
        (100_000, "1d3h"),
    ],
)
def test_an_age_is_short(seconds: int, expected: str) -> None:
    """An age is told in its one or two largest units."""
    assert render.age(Timestamp(seconds=int(NOW) - seconds), NOW) == expected


def test_an_unset_time_has_no_age() -> None:
    """What has not happened has no age."""
    assert render.age(Timestamp(), NOW) == ""


def test_a_list_has_one_line_per_deployment() -> None:
    """State, what is ready, restarts, revision and age stand on one line; init containers do not count."""
    header, line = render.deployments([deployment()], NOW).splitlines()
    assert header.split() == ["NAME", "STATE", "ENGINE", "READY", "RESTARTS", "REVISION", "AGE"]
    assert line.split() == ["web", "ACTIVE", "podman", "1/1", "2", "3", "2h5m"]


def test_a_description_has_what_one_would_ask() -> None:
    """Components, ports and the reasons of the engine's choice are told."""
    text = describe(deployment(), [], NOW)
    for part in ("beemesh-web-1234", "prepare", "Ports: 127.0.0.1:8080 -> 80/tcp", "REJECTED", "UNHEALTHY", "gone"):
        assert part in text


def test_a_description_tells_readiness_restarts_and_the_last_exit() -> None:
    """Each component tells whether it is ready, how often it was restarted, and how its last run ended."""
    lines = [line.split() for line in describe(deployment(), [], NOW).splitlines()]
    assert ["web", "RUNNING", "yes", "2", "137", "OOMKilled", "5m", "ago"] in [words[:8] for words in lines]
    assert ["prepare", "SUCCEEDED", "-", "0", "-"] in [words[:5] for words in lines]


def test_replicas_are_told_apart() -> None:
    """Where a component is there several times its replica stands before its name; a single one has its bare name."""
    item = deployment()
    again = item.instances[0].workload.components.add(component_id="c2", display_name="web", replica=1)
    again.image = "i"
    first = [line.split()[0] for line in describe(item, [], NOW).splitlines() if line.startswith("  ")]
    assert first[:4] == ["COMPONENT", "prepare", "0/web", "1/web"]


def test_a_description_tells_why_what_is_well_was_restarted() -> None:
    """What the failed probe said stands where a message would."""
    item = deployment()
    item.instances[0].workload.components[1].last_exit.message = "Liveness probe failed: no answer"
    (line,) = (line for line in describe(item, [], NOW).splitlines() if line.startswith("  web"))
    assert line.endswith("last run: Liveness probe failed: no answer")


def test_a_description_tells_the_last_events() -> None:
    """The last ten events are told with their age, and where the others are."""
    events = [
        pb2.DeploymentEvent(reason=f"E{number}", message="so", event_time=Timestamp(seconds=int(NOW) - 60))
        for number in range(12)
    ]
    text = describe(deployment(), events, NOW)
    assert "Events (the last 10; all: beectl events web):" in text
    assert [line.split() for line in text.splitlines() if " E" in line and "so" in line] == [
        ["1m", f"E{number}", "so"] for number in range(2, 12)
    ]


def test_only_conditions_that_do_not_hold_are_told() -> None:
    """What is as it should be is not worth a line; what is not says why."""
    item = deployment()
    conditions = item.instances[0].workload.conditions
    conditions.add(type="Ready", status=Condition.STATUS_TRUE)
    conditions.add(type="BackendReachable", status=Condition.STATUS_FALSE, reason="Frozen", message="no answer")
    text = describe(item, [], NOW)
    assert "Conditions: BackendReachable FALSE (Frozen: no answer)" in text
    assert "Ready TRUE" not in text


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (512, "512 B"), (1024, "1 KiB"), (3_565_158, "3.4 MiB"), (150 << 20, "150 MiB"), (12 << 30, "12 GiB")],
)
def test_a_size_is_short(count: int, expected: str) -> None:
    """Bytes are told in the unit that suits them."""
    assert render.size(count) == expected


def test_a_table_stays_a_table() -> None:
    """A message of several lines is told on one."""
    assert render.table(("A",), [("one\ntwo",)]).splitlines() == ["A", "one two"]


def test_the_default_engine_has_a_star() -> None:
    """The engine that is the default is marked, and why one cannot be used is said."""
    items = [
        Engine(engine_id="podman", availability=Engine.AVAILABILITY_AVAILABLE),
        Engine(
            engine_id="docker", availability=Engine.AVAILABILITY_UNAVAILABLE, availability_reason="SOCKET_UNREACHABLE"
        ),
    ]
    text = render.engines(items, "podman")
    assert "podman*" in text
    assert "docker*" not in text
    assert "SOCKET_UNREACHABLE" in text


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_machines_read_the_same_as_people(output: str, load: object) -> None:
    """JSON and YAML have protobuf's JSON shape, and both say the same."""
    data = render.as_data(deployment())
    assert callable(load)
    assert load(render.formatted(data, output)) == data
    assert data["deploymentId"] == "web"
