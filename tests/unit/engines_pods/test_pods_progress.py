"""The progress of a pull in words."""

from __future__ import annotations

from services.engines.pods.progress import Progress


def test_a_pull_tells_how_many_megabytes_of_how_many_are_here() -> None:
    """Bytes of all layers are added up; what is complete counts whole, and nothing is said twice."""
    progress = Progress("r/a:1")
    assert progress.text == "pulling image r/a:1"
    assert not progress.take({"status": "Pulling fs layer", "progressDetail": {}, "id": "a"})
    assert progress.take(
        {"status": "Downloading", "progressDetail": {"current": 2_300_000, "total": 10_000_000}, "id": "a"}
    )
    assert progress.text == "pulling image r/a:1: 2.3 of 10.0 MB"
    assert progress.take({"status": "Downloading", "progressDetail": {"current": 1, "total": 30_100_000}, "id": "b"})
    assert progress.text == "pulling image r/a:1: 2.3 of 40.1 MB"
    assert progress.take({"status": "Download complete", "progressDetail": {}, "id": "a"})
    assert progress.text == "pulling image r/a:1: 10.0 of 40.1 MB"
    assert not progress.take({"status": "Download complete", "progressDetail": {}, "id": "a"})


def test_layers_that_are_here_already_say_nothing() -> None:
    """Layers that are here already, and lines without a layer, change nothing."""
    progress = Progress("r/a:1")
    assert not progress.take({"status": "Already exists", "progressDetail": {}, "id": "a"})
    assert not progress.take({"stream": "Writing manifest"})
    assert progress.text == "pulling image r/a:1"
