"""Of a Compose file the outer shape is checked; Compose itself does the rest."""

from __future__ import annotations

import pytest

from services.errors import InvalidArgument
from services.manifests import parse
from tests.unit.manifests.samples import COMPOSE, found


@pytest.mark.parametrize(
    ("text", "path", "line", "reason"),
    [
        ("services: {}\n", "services", 1, "BAD_VALUE"),
        ("services:\n", "services", 1, "WRONG_TYPE"),
        ("services: [a]\n", "services", 1, "WRONG_TYPE"),
        (COMPOSE + "  web:\n", "services.web", 7, "WRONG_TYPE"),
        (COMPOSE + "  web: nginx\n", "services.web", 7, "WRONG_TYPE"),
        (COMPOSE + "  we b: {image: a}\n", 'services["we b"]', 7, "BAD_VALUE"),
        (COMPOSE + "servces: {}\n", "servces", 7, "UNKNOWN_FIELD"),
        (COMPOSE + "name: My App\n", "name", 7, "BAD_VALUE"),
        (COMPOSE + "name: 12\n", "name", 7, "BAD_VALUE"),
        (COMPOSE + "x-beemesh: yes\n", "x-beemesh", 7, "WRONG_TYPE"),
        (COMPOSE + "x-beemesh: {annotation: {}}\n", "x-beemesh.annotation", 7, "UNKNOWN_FIELD"),
        (COMPOSE + "x-beemesh: {annotations: []}\n", "x-beemesh.annotations", 7, "WRONG_TYPE"),
        (
            COMPOSE + "x-beemesh:\n  annotations:\n    beemesh.io/resources.cpu: 2.0\n",
            'x-beemesh.annotations["beemesh.io/resources.cpu"]',
            9,
            "WRONG_TYPE",
        ),
    ],
)
def test_a_bad_outer_shape_is_refused_with_path_and_line(text: str, path: str, line: int, reason: str) -> None:
    """Services that are no mappings, unknown top-level fields and a bad `x-beemesh` are refused."""
    assert found(text) == [(path, line, reason)]


def test_where_nothing_else_names_it_a_missing_name_is_one_of_the_faults() -> None:
    """Whether a name is needed the caller knows; its absence is told along with all else that is wrong."""
    text = "x-a: 1\nservices:\n  we b: {image: a}\n"
    with pytest.raises(InvalidArgument) as caught:
        parse(text, name_required=True)
    told = [(item.field_path, item.line, item.reason) for item in caught.value.violations]
    assert told == [("name", 1, "DEPLOYMENT_ID_REQUIRED"), ('services["we b"]', 3, "BAD_VALUE")]
    alone = "name:\nservices: {web: {image: a}}\n"
    with pytest.raises(InvalidArgument, match="deployment_id is needed") as caught:
        parse(alone, name_required=True)
    assert caught.value.reason == "DEPLOYMENT_ID_REQUIRED"
    assert parse(alone).name == ""


def test_what_compose_allows_passes_as_written() -> None:
    """Nulls, extensions, variables and everything inside a service are left to Compose."""
    text = COMPOSE + (
        "    environment: {TOKEN: , LEVEL: 1}\n    anything: [1, {a: ~}]\n"
        "name: ${NAME:-shop}\nvolumes: {data: }\nx-other: 1\nx-beemesh: {annotations: }\n"
    )
    body = parse(text).primary.body
    assert body["services"]["api"]["environment"] == {"TOKEN": None, "LEVEL": 1}
    assert body["services"]["api"]["anything"] == [1, {"a": None}]
    assert body["volumes"] == {"data": None}
