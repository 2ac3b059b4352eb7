"""What every List has in common: pages with opaque tokens, and `field=value` filters joined by AND (AIP-160's core)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from services.errors import FieldViolation, InvalidArgument

T = TypeVar("T")
M = TypeVar("M")

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
PAGE_BYTES_MAX = 3 << 20
"""Most clients refuse an answer over 4 MiB unless they are told otherwise, and whoever has no list has nothing."""

_TERM = re.compile(r"""([A-Za-z0-9_./-]+)\s*=\s*(?:"([^"]*)"|([^\s"=]+))(?:\s+AND\s+|$)""")


def paginate(items: Iterable[T], *, key: Callable[[T], str], page_size: int, page_token: str) -> tuple[list[T], str]:
    """One page in key order, and the token of the next one ("" at the end); stable while items come and go."""
    size = _size(page_size)
    after = _decode(page_token)
    rest = sorted((item for item in items if key(item) > after), key=key)
    page = rest[:size]
    return page, _encode(key(page[-1])) if len(rest) > size else ""


def fitting(
    page: Iterable[T], token: str, *, key: Callable[[T], str], make: Callable[[T], M], size: Callable[[M], int]
) -> tuple[list[M], str]:
    """The messages of a page, and its token: no more of them than clients take in one answer, but one at least.

    `make` and `size` (in bytes) are those of the message of one item.
    """
    messages: list[M] = []
    room, last = PAGE_BYTES_MAX, ""
    for item in page:
        message = make(item)
        room -= size(message)
        if messages and room < 0:
            return messages, _encode(last)
        messages.append(message)
        last = key(item)
    return messages, token


def paginate_ranked(
    items: Iterable[T], *, key: Callable[[T], str], page_size: int, page_token: str
) -> tuple[list[T], str]:
    """One page of items that come in order of preference, and the token of the next one ("" at the end).

    Each item comes once though its rank changes between two pages: the token names those that came. For short lists,
    and keys without a comma.
    """
    size = _size(page_size)
    seen = _decode(page_token).split(",") if page_token else []
    rest = [item for item in items if key(item) not in seen]
    page = rest[:size]
    return page, _encode(",".join([*seen, *map(key, page)])) if len(rest) > size else ""


def parse_filter(text: str, *, fields: Collection[str]) -> dict[str, str]:
    """`state=ACTIVE AND engine=podman` as a dict; raises InvalidArgument naming the fields that exist."""
    found: dict[str, str] = {}
    rest = text.strip()
    while rest:
        match = _TERM.match(rest)
        if match is None:
            raise _bad("filter", f"{rest[:80]!r}: expected field=value, joined by AND")
        rest = rest[match.end() :]
        name, value = match[1], match[2] if match[2] is not None else match[3]
        if name not in fields:
            raise _bad("filter", f"unknown field {name!r}; known: {', '.join(sorted(fields))}")
        if found.setdefault(name, value) != value:
            raise _bad("filter", f"{name!r} is given twice")
    return found


def _size(page_size: int) -> int:
    if page_size < 0:
        raise _bad("page_size", "must not be negative")
    return min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise _bad("page_token", "is none of ours; pass the next_page_token of an earlier answer") from None


def _bad(field: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field} {message}",
        reason=f"BAD_{field.upper()}",
        violations=[FieldViolation(field_path=field, message=message)],
    )
