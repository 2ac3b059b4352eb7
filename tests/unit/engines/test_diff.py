"""What a plan names: the differences of two deployments, each at its place, and no secret among them."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services import manifests
from services.engines.diff import SECRET, created, described, diff, scales
from services.engines.engine import Change, ChangeAction, Config, Resources
from services.engines.export import dump

BASE: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "replicas": 3,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "image": "example:1",
                        "command": ["run", "fast"],
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                        "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
                    },
                    {"name": "side", "image": "example:1"},
                ]
            },
        },
    },
}
SECRET_BODY: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "keys", "annotations": {"last-applied": "geheim1"}},
    "stringData": {"password": "geheim1"},
}


def manifest(*bodies: dict[str, Any]) -> manifests.Manifest:
    """Documents as a manifest."""
    return manifests.parse("\n---\n".join(json.dumps(body) for body in bodies))


def changed(edit: Any, *, old: tuple[dict[str, Any], ...] = (BASE,)) -> list[Change]:
    """The plan after `edit` has changed a copy of the documents."""
    bodies = [copy.deepcopy(body) for body in old]
    edit(*bodies)
    return diff(manifest(*old), Config(), manifest(*bodies), Config())


def main(body: dict[str, Any]) -> dict[str, Any]:
    """The main container."""
    found: dict[str, Any] = body["spec"]["template"]["spec"]["containers"][0]
    return found


def told(changes: list[Change]) -> list[tuple[str, str, str, str]]:
    """Each change in short."""
    return [(change.target, change.field_path, change.old_value, change.new_value) for change in changes]


def test_an_env_value_is_named_by_its_container_and_variable() -> None:
    """One change, at the variable's value."""
    changes = changed(lambda body: main(body)["env"][1].update(value="3"))
    assert told(changes) == [("deployment/web/container/main", "env.B.value", "2", "3")]


def test_an_image_is_named_by_its_container() -> None:
    """Also when the container stands at another place now, which is named too."""

    def edit(body: dict[str, Any]) -> None:
        main(body)["image"] = "example:2"
        body["spec"]["template"]["spec"]["containers"].reverse()

    assert told(changed(edit)) == [
        ("deployment/web/container/main", "image", "example:1", "example:2"),
        ("deployment/web", "spec.template.spec.containers.order", '["main","side"]', '["side","main"]'),
    ]


def test_replicas_and_annotations_are_known_as_such() -> None:
    """So that an engine can judge them."""
    (replicas,) = changed(lambda body: body["spec"].update(replicas=5))
    assert told([replicas]) == [("deployment/web", "spec.replicas", "3", "5")]
    assert scales(replicas)
    assert described(replicas) == ("", "")
    (label,) = changed(lambda body: body["metadata"]["labels"].update(app="other"))
    assert described(label) == ("labels", "app")
    assert not scales(label)


def test_a_container_that_comes_or_goes_is_one_change() -> None:
    """Its fields are not listed."""
    (gone,) = changed(lambda body: body["spec"]["template"]["spec"]["containers"].pop())
    assert (gone.action, gone.target, gone.field_path) == (ChangeAction.REMOVE, "deployment/web/container/side", "")


def test_a_list_without_names_is_one_value() -> None:
    """A command is shown whole."""
    changes = changed(lambda body: main(body)["command"].append("now"))
    assert told(changes) == [("deployment/web/container/main", "command", '["run","fast"]', '["run","fast","now"]')]


def test_documents_come_and_go_and_move() -> None:
    """Created, removed, or only in another order."""
    first, second = manifest(BASE), manifest(BASE, SECRET_BODY)
    assert [(c.action, c.target) for c in diff(first, Config(), second, Config())] == [
        (ChangeAction.CREATE, "secret/keys")
    ]
    assert [(c.action, c.target) for c in diff(second, Config(), first, Config())] == [
        (ChangeAction.REMOVE, "secret/keys")
    ]
    (moved,) = diff(second, Config(), manifest(SECRET_BODY, BASE), Config())
    assert moved.field_path == "order"
    assert [change.target for change in created(second)] == ["deployment/web", "secret/keys"]


def test_no_secret_is_shown() -> None:
    """Neither a value, nor the copy that a tool keeps in an annotation, nor the whole of them."""

    def edit(_: dict[str, Any], secret: dict[str, Any]) -> None:
        secret["stringData"] = {"password": "geheim2", "more": "geheim3"}
        secret["metadata"]["annotations"]["last-applied"] = "geheim2"

    changes = changed(edit, old=(BASE, SECRET_BODY))
    assert {change.field_path for change in changes} == {
        "stringData.password",
        "stringData.more",
        "metadata.annotations.last-applied",
    }
    assert "geheim" not in repr(changes)
    assert {change.new_value for change in changes} == {SECRET}
    whole = changed(lambda _, secret: secret.pop("stringData"), old=(BASE, SECRET_BODY))
    assert [(change.field_path, change.old_value, change.new_value) for change in whole] == [
        ("stringData.password", SECRET, "")
    ]


def test_the_config_is_a_target_of_its_own() -> None:
    """Its unset fields do not count."""
    old, new = Config(replicas=1), Config(replicas=2, env={"X": "1"}, resources=Resources(cpu_cores=0.5))
    changes = diff(manifest(BASE), old, manifest(BASE), new)
    assert {(c.target, c.field_path, c.old_value, c.new_value) for c in changes} == {
        ("config", "replicas", "1", "2"),
        ("config", "env.X", "", "1"),
        ("config", "resources.cpu_cores", "", "0.5"),
    }
    assert scales(next(change for change in changes if change.field_path == "replicas"))


def test_a_long_value_is_cut() -> None:
    """A plan stays readable."""
    (change,) = changed(lambda body: main(body).update(command=["x" * 5000]))
    assert len(change.new_value) < 2000


def test_a_service_of_compose_is_a_target() -> None:
    """As a container is."""
    old = manifests.parse("services: {web: {image: a}, db: {image: b}}")
    new = manifests.parse("services: {web: {image: c}, cache: {image: b}}")
    assert [(c.target, c.field_path) for c in diff(old, Config(), new, Config())] == [
        ("compose/service/web", "image"),
        ("compose/service/cache", ""),
        ("compose/service/db", ""),
    ]


KEYS = st.sampled_from(["env", "ports", "name", "containerPort", "image", "services"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["env", "ports", "name", "containerPort", "image", "services"]), inner, max_size=3
        )
        | st.lists(st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"value": inner}), max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_there_is_a_change_exactly_where_the_canonical_forms_differ(old: Any, new: Any) -> None:
    """So a plan is empty exactly when an apply does nothing."""
    before, after = (manifests.parse(json.dumps({"services": {"s": {"image": "i", "x-v": v}}})) for v in (old, new))
    changes = diff(before, Config(), after, Config())
    assert bool(changes) == (before.canonical_digest != after.canonical_digest)
    assert diff(after, Config(), after, Config()) == []
    assert len(diff(after, Config(), before, Config())) >= bool(changes)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=12) | st.integers() | st.booleans(), max_size=4))
def test_an_export_reads_back_as_it_was(data: dict[str, Any]) -> None:
    """Whatever a text looks like: `1e3`, `no`, `22:22`, several lines."""
    body = {"services": {"s": {"image": "i", "labels": {f"k{key}": value for key, value in data.items()}}}}
    try:
        wanted = manifests.parse(json.dumps(body))
    except Exception:
        return
    assert manifests.parse(dump([wanted.documents[0].body])).canonical_digest == wanted.canonical_digest
