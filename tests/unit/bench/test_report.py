"""How benches tell what they have found, and what of it fails a run."""

from __future__ import annotations

import re

import pytest

from bench.__main__ import BENCHES
from bench.measure import interleaved, ratios
from bench.report import percentile, put, spread, table
from bench.rounds import Holdings, grown
from scripts.local_node import REPOSITORY

EMPTY = Holdings(rss={"a": 40_000_000}, descriptors={"a": 10}, rows={"a.events": 5}, files=3)


def test_a_table_is_put_between_its_markers_and_nowhere_else() -> None:
    """A table is put between its own markers, and the rest of the document stays as it was."""
    document = (
        "head\n<!-- bench:one -->\nold\n<!-- /bench:one -->\n<!-- bench:two -->\nkept\n<!-- /bench:two -->\ntail\n"
    )
    written = put(document, "one", "new")
    assert written == (
        "head\n<!-- bench:one -->\n\nnew\n\n<!-- /bench:one -->\n<!-- bench:two -->\nkept\n<!-- /bench:two -->\ntail\n"
    )
    assert put(written, "one", "new") == written


@pytest.mark.parametrize("document", ["", "<!-- bench:one -->", "<!-- /bench:one --> <!-- bench:one -->"])
def test_a_document_without_the_markers_is_refused(document: str) -> None:
    """A document that has no place for a table is refused instead of left without it."""
    with pytest.raises(ValueError, match="bench:one"):
        put(document, "one", "new")


def test_figures_are_told_with_their_spread() -> None:
    """A figure is the median with the least and the most beside it."""
    assert spread([0.003, 0.001, 0.010], digits=1, scale=1000) == "3.0 (1.0–10.0)"
    assert percentile([float(number) for number in range(100)], 99) == 99.0
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_contenders_take_turns_and_the_warm_up_does_not_count() -> None:
    """Contenders take turns, the first round is thrown away, and ratios are those of one round."""
    order: list[str] = []
    seconds = iter([9.0, 9.0, 2.0, 1.0, 4.0, 4.0])

    def run(name: str) -> float:
        order.append(name)
        return next(seconds)

    found = interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert found == {"a": [2.0, 4.0], "b": [1.0, 4.0]}
    assert ratios(found, "a", against="b") == [2.0, 1.0]


def test_what_stays_the_same_has_not_grown() -> None:
    """What stays the same, or wavers as allocators do, has not grown."""
    after = Holdings(rss={"a": 40_900_000}, descriptors={"a": 12}, rows={"a.events": 5}, files=3)
    assert grown(EMPTY, after) == ()


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (Holdings(rss={"a": 43_000_000}, descriptors={"a": 10}, rows={}, files=3), "memory"),
        (Holdings(rss={"a": 40_000_000}, descriptors={"a": 13}, rows={}, files=3), "descriptors"),
        (Holdings(rss={"a": 40_000_000}, descriptors={"a": 10}, rows={"a.events": 6}, files=3), "rows"),
        (Holdings(rss={"a": 40_000_000}, descriptors={"a": 10}, rows={"a.new": 1}, files=3), "rows"),
        (Holdings(rss={"a": 40_000_000}, descriptors={"a": 10}, rows={}, files=4), "files"),
    ],
)
def test_each_thing_that_grows_is_named(after: Holdings, word: str) -> None:
    """Memory, descriptors, rows and files that grow are each named."""
    (told,) = grown(EMPTY, after)
    assert word in told


def test_each_bench_has_its_place_in_the_document() -> None:
    """The document has one place for each bench, and no place for a bench that is not there."""
    document = (REPOSITORY / "docs" / "performance.md").read_text()
    assert re.findall("<!-- bench:(.*) -->", document) == list(BENCHES)
