"""What components are called, and found by."""

from __future__ import annotations

import pytest
from beemesh.engine.v1.workload_pb2 import Component

from services.cli.components import labels, resolve
from services.cli.report import Failure

IDS = [f"{digit * 6}aaaaaa" for digit in "123"]


def web(*replicas: int) -> list[Component]:
    """A container `web` in each replica, and one `db`."""
    parts = [
        Component(component_id=IDS[index], display_name="web", replica=number) for index, number in enumerate(replicas)
    ]
    return [*parts, Component(component_id="dbdbdbdbdb", display_name="db")]


def test_a_replica_is_part_of_the_name_only_where_there_are_several() -> None:
    """A component that is there once keeps its bare name."""
    assert labels(web(0, 1)) == {IDS[0]: "0/web", IDS[1]: "1/web", "dbdbdbdbdb": "db"}
    assert labels(web(0)) == {IDS[0]: "web", "dbdbdbdbdb": "db"}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ""),
        ("web", "web"),
        ("1/web", IDS[1]),
        ("0/db", "dbdbdbdbdb"),
        ("222222", IDS[1]),
        ("22222", "22222"),
        ("other", "other"),
    ],
)
def test_a_component_is_found_as_it_is_shown(wanted: str, expected: str) -> None:
    """REPLICA/NAME and the beginning of an id become the id; all else is the node's to judge."""
    assert resolve(web(0, 1), wanted) == expected


def test_a_replica_that_is_none_is_said_with_those_there_are() -> None:
    """A wrong replica names the right ones."""
    with pytest.raises(Failure, match=r"7/web; there are 0/web, 1/web, db"):
        resolve(web(0, 1), "7/web")


def test_a_replica_that_is_there_twice_is_to_be_named_by_id() -> None:
    """Two Deployments of one manifest may both have a 0/web: their ids tell them apart."""
    with pytest.raises(Failure, match=f"{IDS[0]}, {IDS[1]}"):
        resolve(web(0, 0), "0/web")
