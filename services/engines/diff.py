"""How one deployment differs from another: what a plan names, field by field, with no secret in it. Pure.

What stands in a list under a name of its own (containers, variables, ports, mounts) is compared by that name; other
lists are one value. There is a difference exactly where the canonical forms differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.admission import config_json
from services.engines.engine import Change, ChangeAction, Config
from services.manifests import Document, Manifest, Path, canonical_json, format_path

SECRET = "(secret)"  # noqa: S105 - what stands for one
CONFIG = "config"
"""The target of what differs in the deployment config."""

_VALUE_MAX = 1024
"""Characters of a value that are shown."""

_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "protocol"),
}
"""By the name of a list: the fields that name its items."""

_PARTS = {"containers": "container", "initContainers": "init-container", "services": "service"}
"""Fields whose entries are targets of their own."""

_SECRET_FIELDS: Mapping[str, tuple[Path, ...]] = {
    "Secret": (("data",), ("stringData",), ("metadata", "annotations")),
    "Compose": (("secrets",),),
    "VirtualMachine": (("spec", "cloudInit", "userData"),),
}
"""By kind: below here nothing is shown. (Tools keep whole copies of a Secret in its annotations.)"""

Key = tuple[str, str, str]
"""Kind, namespace and name."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a difference is: its target, the path within it, and the path within the document."""

    target: str
    kind: str
    within: Path = ()
    path: Path = ()
    is_item: bool = False
    """Of a list: where it comes or goes it is one value."""

    def below(self, step: str | int, *, is_item: bool = False) -> _Place:
        return _Place(self.target, self.kind, (*self.within, step), (*self.path, step), is_item)

    def part(self, noun: str, step: str | int, name: str) -> _Place:
        return _Place(f"{self.target}/{noun}/{name}", self.kind, (), (*self.path, step))

    @property
    def is_secret(self) -> bool:
        return any(self.path[: len(hidden)] == hidden for hidden in _SECRET_FIELDS.get(self.kind, ()))


class _Absent:
    """What stands for a value that is not there; None may be one."""


_ABSENT = _Absent()


def diff(old: Manifest, old_config: Config, new: Manifest, new_config: Config) -> list[Change]:
    """What changes from old to new, in the new manifest's order; nothing when both mean the same."""
    before, after = _by_key(old), _by_key(new)
    changes: list[Change] = []
    for key, document in after.items():
        place = _Place(target(document), document.kind)
        if key in before:
            changes += _values(before[key].body, document.body, place)
        else:
            changes.append(_whole(ChangeAction.CREATE, place))
    changes += [
        _whole(ChangeAction.REMOVE, _Place(target(gone), gone.kind)) for key, gone in before.items() if key not in after
    ]
    if not changes:
        changes += _moved(list(before), list(after))
    return [*changes, *_values(config_json(old_config), config_json(new_config), _Place(CONFIG, ""))]


def scales(change: Change) -> bool:
    """Whether it concerns the number of replicas alone."""
    of_config = change.kind == "" and change.path == ("replicas",)
    of_deployment = change.kind == "Deployment" and change.path == ("spec", "replicas")
    return of_config or of_deployment or (change.kind == "Compose" and change.path[-2:] == ("deploy", "replicas"))


def described(change: Change) -> tuple[str, str]:
    """`labels` or `annotations` and the key, where it concerns one of them alone; else two empty texts."""
    path = ("metadata", *change.path) if change.kind == "" else change.path
    if path[:2] == ("spec", "template"):
        path = path[2:]
    if len(path) == 3 and path[0] in ("metadata", "x-beemesh") and path[1] in ("labels", "annotations"):
        return str(path[1]), str(path[2])
    return "", ""


def created(manifest: Manifest) -> list[Change]:
    """The plan of a first deploy."""
    return [_whole(ChangeAction.CREATE, _Place(target(document), document.kind)) for document in manifest.documents]


def target(document: Document) -> str:
    """A document as people name it: `pod/web`; one of another namespace with it."""
    kind = document.kind.lower()
    if not document.name:
        return kind
    named = f"{kind}/{document.name}"
    return named if document.namespace in ("", "default") else f"{named}.{document.namespace}"


def _by_key(manifest: Manifest) -> dict[Key, Document]:
    return {(document.kind, document.namespace, document.name): document for document in manifest.documents}


def _moved(before: Sequence[Key], after: Sequence[Key]) -> list[Change]:
    """The same documents in another order: the digest sees it, so the plan says it."""
    if before == after:
        return []
    names = [", ".join(f"{kind.lower()}/{name}" for kind, _, name in keys) for keys in (before, after)]
    return [
        Change(
            action=ChangeAction.UPDATE_IN_PLACE,
            target="documents",
            field_path="order",
            path=("order",),
            old_value=_cut(names[0]),
            new_value=_cut(names[1]),
        )
    ]


def _values(old: Any, new: Any, place: _Place) -> Iterator[Change]:
    if canonical_json(old) == canonical_json(new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _mappings(old, new, place)
    elif isinstance(old, list) and isinstance(new, list) and (named := _named(old, new, place)):
        yield from _lists(*named, place)
    else:
        yield _leaf(old, new, place)


def _mappings(old: Mapping[str, Any], new: Mapping[str, Any], place: _Place) -> Iterator[Change]:
    noun = _PARTS.get("services") if place.path == ("services",) and place.kind == "Compose" else None
    for key in [*new, *(key for key in old if key not in new)]:
        inner = place.part(noun, key, key) if noun else place.below(key)
        yield from _either(old.get(key, _ABSENT), new.get(key, _ABSENT), inner, whole=noun is not None)


def _lists(old: Mapping[str, Any], new: Mapping[str, Any], place: _Place) -> Iterator[Change]:
    noun = _PARTS.get(str(place.path[-1]))
    for name in [*new, *(name for name in old if name not in new)]:
        inner = place.part(noun, name, name) if noun else place.below(name, is_item=True)
        yield from _either(old.get(name, _ABSENT), new.get(name, _ABSENT), inner, whole=noun is not None)
    before, after = [name for name in old if name in new], [name for name in new if name in old]
    if before != after:
        yield _leaf(before, after, place.below("order"))


def _either(old: Any, new: Any, place: _Place, *, whole: bool) -> Iterator[Change]:
    """An entry of both, or of one; `whole`: it is a target, named and not shown when it comes or goes."""
    if old is not _ABSENT and new is not _ABSENT:
        yield from _values(old, new, place)
    elif whole:
        yield _whole(ChangeAction.CREATE if old is _ABSENT else ChangeAction.REMOVE, place)
    elif isinstance(there := new if old is _ABSENT else old, dict) and there and not place.is_item:
        yield from _mappings({} if old is _ABSENT else old, {} if new is _ABSENT else new, place)
    else:
        yield _leaf(old, new, place)


def _named(old: list[Any], new: list[Any], place: _Place) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Both lists by their items' names; None where items have none, or share one."""
    fields = _KEYS.get(str(place.path[-1])) if place.path else None
    if fields is None:
        return None
    pair = []
    for items in (old, new):
        by_name = {name: item for item in items if (name := _name(item, fields))}
        if len(by_name) != len(items):
            return None
        pair.append(by_name)
    return pair[0], pair[1]


def _name(item: Any, fields: Sequence[str]) -> str:
    if not isinstance(item, dict) or fields[0] not in item:
        return ""
    first, *rest = (item.get(field) for field in fields)
    return "/".join(str(part) for part in (first, *(part for part in rest if part)))


def _leaf(old: Any, new: Any, place: _Place) -> Change:
    return Change(
        action=ChangeAction.UPDATE_IN_PLACE,
        target=place.target,
        field_path=format_path(place.within),
        path=place.path,
        kind=place.kind,
        old_value=_text(old, place),
        new_value=_text(new, place),
    )


def _whole(action: ChangeAction, place: _Place) -> Change:
    return Change(action=action, target=place.target, path=place.path, kind=place.kind)


def _text(value: Any, place: _Place) -> str:
    if value is _ABSENT:
        return ""
    if place.is_secret or _holds_secret(place):
        return SECRET
    return _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _holds_secret(place: _Place) -> bool:
    """Whether something hidden may stand within what is shown as one value."""
    return any(hidden[: len(place.path)] == place.path for hidden in _SECRET_FIELDS.get(place.kind, ()))


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_MAX else f"{text[:_VALUE_MAX]}…"
