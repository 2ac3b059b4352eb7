"""Reads a plain YAML scalar by the YAML 1.2 core schema: `no` and `22:22` are text, `0o17` is 15, `1e3` is 1000.0."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

Scalar = str | int | float | bool | None

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
TRUES = frozenset({"true", "True", "TRUE"})
FALSES = frozenset({"false", "False", "FALSE"})
NUMBER_START = frozenset("0123456789+-.")

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_MAX_DIGITS = 24
"""More than any 64-bit integer has, in any base; reading a million digits would take minutes."""
_MAX_FLOAT = 400

TAG = "tag:yaml.org,2002:"
CORE_TAGS = frozenset(TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))


def plain(text: str) -> Scalar:
    """The value of an unquoted, untagged scalar. Raises ValueError for a number that cannot be held."""
    if text in NULLS:
        return None
    first = text[0]
    if first in NUMBER_START:
        return _number(text)
    if first in "tTfF":
        return True if text in TRUES else False if text in FALSES else text
    return text


def tagged(tag: str, text: str) -> Scalar:
    """The value of a scalar with one of the core tags. Raises ValueError when the text does not fit the tag."""
    if tag in ("!", TAG + "str"):
        return text
    accepts = _ACCEPTS.get(tag)
    value = plain(text)
    if accepts is None or not accepts(value):
        raise ValueError(f"the text does not fit its tag !!{tag.removeprefix(TAG)}")
    return float(value) if tag == TAG + "float" and isinstance(value, int) else value


def is_octal(text: str) -> bool:
    """Whether YAML 1.1 would read this integer as octal where YAML 1.2 reads it as decimal, as in `0644`."""
    return len(text) > 1 and text[0] == "0" and len(text) <= _MAX_DIGITS and set(text) <= set("01234567")


def _number(text: str) -> Scalar:
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        if len(text) > _MAX_FLOAT:
            raise ValueError("the number is too long; quote it if it is text")
        return _finite(float(text))
    if _INFINITY.fullmatch(text) or text in _NAN:
        return _finite(math.inf)
    return text


def _finite(value: float) -> float:
    """No field of any format takes an infinite number, and JSON cannot carry one."""
    if math.isfinite(value):
        return value
    raise ValueError("not a finite number; quote it if it is text")


def _integer(text: str) -> int:
    if len(text) <= _MAX_DIGITS:
        value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if -(2**63) <= value < 2**64:
            return value
    raise ValueError("the integer does not fit 64 bits; quote it if it is text")


def _is_integer(value: Scalar) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_ACCEPTS: Mapping[str, Callable[[Scalar], bool]] = {
    TAG + "int": _is_integer,
    TAG + "float": lambda value: _is_integer(value) or isinstance(value, float),
    TAG + "bool": lambda value: isinstance(value, bool),
    TAG + "null": lambda value: value is None,
}
