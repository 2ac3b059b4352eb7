"""Pages and filters, the same for every List."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidArgument
from services.rpc.listing import (
    PAGE_BYTES_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    fitting,
    paginate,
    paginate_ranked,
    parse_filter,
)

KEYS = st.sets(st.text(min_size=1, max_size=5), max_size=30)
IDS = st.sets(st.text("abc-019", min_size=1, max_size=5), max_size=30)


@given(keys=KEYS, size=st.integers(1, 7))
def test_pages_give_everything_once_in_order(keys: set[str], size: int) -> None:
    """All pages together are all items, each once, in the key's order, no page larger than asked."""
    seen: list[str] = []
    token = ""
    while True:
        page, token = paginate(keys, key=str, page_size=size, page_token=token)
        assert len(page) <= size
        seen += page
        if not token:
            break
    assert seen == sorted(keys)


@given(sizes=st.dictionaries(st.text(min_size=1, max_size=5), st.integers(0, PAGE_BYTES_MAX * 2), max_size=12))
def test_pages_of_fat_items_are_short_and_give_everything_once(sizes: dict[str, int]) -> None:
    """No page is larger than clients take, unless one item alone is; none is empty, and nothing is left out."""
    seen: list[str] = []
    token = ""
    while True:
        page, token = paginate(sizes, key=str, page_size=5, page_token=token)
        taken, token = fitting(page, token, key=str, make=str, size=sizes.__getitem__)
        assert sum(map(sizes.__getitem__, taken)) <= PAGE_BYTES_MAX or len(taken) == 1
        assert taken or not token
        seen += taken
        if not token:
            break
    assert seen == sorted(sizes)


@given(keys=KEYS, more=KEYS, size=st.integers(1, 3))
def test_a_page_is_stable_while_items_come_and_go(keys: set[str], more: set[str], size: int) -> None:
    """What was there all the time comes exactly once, though other items appear between the pages."""
    first, token = paginate(keys, key=str, page_size=size, page_token="")
    rest, _ = paginate(keys | more, key=str, page_size=PAGE_SIZE_MAX, page_token=token) if token else ([], "")
    seen = [key for key in first + rest if key in keys]
    assert seen == sorted(keys)


@given(data=st.data(), ids=IDS, size=st.integers(1, 4))
def test_ranked_pages_give_everything_once_though_ranks_change(data: st.DataObject, ids: set[str], size: int) -> None:
    """However the order changes between two pages, each item comes exactly once."""
    seen: list[str] = []
    token = ""
    while True:
        order = data.draw(st.permutations(sorted(ids)))
        page, token = paginate_ranked(order, key=str, page_size=size, page_token=token)
        assert page == [item for item in order if item not in seen][:size]
        seen += page
        if not token:
            break
    assert sorted(seen) == sorted(ids)


def test_page_sizes_have_a_default_and_a_limit() -> None:
    """0 means the default, and more than the limit means the limit."""
    many = [f"{number:05}" for number in range(PAGE_SIZE_MAX + 1)]
    for paged in (paginate, paginate_ranked):
        assert len(paged(many, key=str, page_size=0, page_token="")[0]) == PAGE_SIZE_DEFAULT
        assert len(paged(many, key=str, page_size=10**6, page_token="")[0]) == PAGE_SIZE_MAX


@pytest.mark.parametrize("token", ["%", "a", "ab\n", "é", "_w", "=", "YQ==YQ"])
def test_a_token_that_is_none_is_refused(token: str) -> None:
    """Text that is no token of ours is an invalid argument, never the first page again."""
    for paged in (paginate, paginate_ranked):
        with pytest.raises(InvalidArgument) as caught:
            paged(["a", "b"], key=str, page_size=1, page_token=token)
        assert (caught.value.reason, caught.value.violations[0].field_path) == ("BAD_PAGE_TOKEN", "page_token")


def test_a_negative_page_size_is_refused() -> None:
    """A negative page size is an invalid argument."""
    for paged in (paginate, paginate_ranked):
        with pytest.raises(InvalidArgument) as caught:
            paged(["a"], key=str, page_size=-1, page_token="")
        assert caught.value.reason == "BAD_PAGE_SIZE"


def test_filters_are_terms_joined_by_and() -> None:
    """`field=value` joined by AND, spaces and quotes allowed; no text is no filter."""
    fields = ("state", "labels.app")
    assert parse_filter("", fields=fields) == {}
    assert parse_filter("  ", fields=fields) == {}
    assert parse_filter("state=ACTIVE", fields=fields) == {"state": "ACTIVE"}
    text = ' state = "NOT AND OK"  AND labels.app=web '
    assert parse_filter(text, fields=fields) == {"state": "NOT AND OK", "labels.app": "web"}
    assert parse_filter("state=A AND state=A", fields=fields) == {"state": "A"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state", "expected field=value"),
        ("state=", "expected field=value"),
        ("state=A OR state=B", "expected field=value"),
        ("colour=red", "known: labels.app, state"),
        ("state=A AND state=B", "given twice"),
        ("state=A AND", "expected field=value"),
        ("AND", "expected field=value"),
        ('state="a', "expected field=value"),
    ],
)
def test_a_filter_that_is_none_says_what_is_expected(text: str, said: str) -> None:
    """A wrong filter is an invalid argument that says what would be right."""
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(text, fields=("state", "labels.app"))
    assert caught.value.reason == "BAD_FILTER"
    assert said in caught.value.message
