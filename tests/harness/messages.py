"""Hypothesis strategies for any message of the contract, made from its descriptor: nonsense, and what comes close."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_DEPTH = 4
_INT32, _INT64 = (1 << 31) - 1, (1 << 63) - 1

ODD_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\x1b[31mred",
    "line\nbreak\r\n",
    "\u202egnp.exe",  # turns the writing direction round
    "d\u0435fault",  # a Cyrillic letter that looks like a Latin one
    "\uff57\uff45\uff42",  # "web" in full width
    "\u0663",  # a digit, and none that we write
    "\U0001f41d" * 3,
    "../../etc/passwd",
    "deployments/../engines/mock",
    "deployments/",
    "a" * 10_000,
    "9" * 5_000,
    "-1",
    "%s%n{0}${x}",
    "AAAA",  # base64 of something that is no token
    "state=ACTIVE AND AND",
    'engine="',
)


def messages(
    descriptor: Descriptor, *, near: Mapping[str, Sequence[Any]], depth: int = _DEPTH
) -> st.SearchStrategy[Message]:
    """Messages of this type; `near` gives, by the name of a field, values that come close to being right."""
    fields = {
        field.name: _field(field, near, depth) for field in descriptor.fields if depth or field.message_type is None
    }
    chosen = st.fixed_dictionaries({}, optional=fields)
    return chosen.map(lambda values: _filled(descriptor, values))


def _filled(descriptor: Descriptor, values: Mapping[str, Any]) -> Message:
    message = GetMessageClass(descriptor)()
    for name, value in values.items():
        field = descriptor.fields_by_name[name]
        if _is_map(field):
            _fill_map(getattr(message, name), field, value)
        elif field.is_repeated:
            getattr(message, name).extend(value)
        elif field.message_type is not None:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


def _fill_map(target: Any, field: FieldDescriptor, values: Mapping[Any, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Message):
            target[key].CopyFrom(value)
        else:
            target[key] = value


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _field(field: FieldDescriptor, near: Mapping[str, Sequence[Any]], depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return st.dictionaries(_one(key, near, depth), _one(value, near, depth), max_size=3)
    one = _one(field, near, depth)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _one(field: FieldDescriptor, near: Mapping[str, Sequence[Any]], depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, near=near, depth=depth - 1)
    if field.enum_type is not None:
        return _enum(field.enum_type)
    found = _SCALARS[field.cpp_type](field)
    good = near.get(field.name)
    return st.one_of(st.sampled_from(good), found) if good else found


def _enum(descriptor: EnumDescriptor) -> st.SearchStrategy[int]:
    known = [value.number for value in descriptor.values]
    return st.sampled_from([*known, *known, 99, _INT32, -1])


def _text(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64)
    return st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=20))


def _int(low: int, high: int) -> Callable[[FieldDescriptor], st.SearchStrategy[Any]]:
    edges = sorted({low, high, 0, 1, 2, 1000, max(low, -1)})
    return lambda _field: st.one_of(st.sampled_from(edges), st.integers(low, high))


def _real(_field: FieldDescriptor) -> st.SearchStrategy[Any]:
    return st.floats(width=32)


_SCALARS: Mapping[int, Callable[[FieldDescriptor], st.SearchStrategy[Any]]] = {
    FieldDescriptor.CPPTYPE_STRING: _text,
    FieldDescriptor.CPPTYPE_INT32: _int(-_INT32 - 1, _INT32),
    FieldDescriptor.CPPTYPE_UINT32: _int(0, 2 * _INT32 + 1),
    FieldDescriptor.CPPTYPE_INT64: _int(-_INT64 - 1, _INT64),
    FieldDescriptor.CPPTYPE_UINT64: _int(0, 2 * _INT64 + 1),
    FieldDescriptor.CPPTYPE_DOUBLE: _real,
    FieldDescriptor.CPPTYPE_FLOAT: _real,
    FieldDescriptor.CPPTYPE_BOOL: lambda _field: st.booleans(),
}
