"""Log files as podman's monitor writes and replaces them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.engine import LogSource
from services.engines.podman.frames import Position
from services.engines.podman.logfile import LogFile, Record
from services.engines.podman.shelf import FILES, Shelf, keep


class Monitor:
    """Writes a log as podman's does; it also is the reader's clock."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ctr.log"
        self.path.touch()
        self.now = 0.0
        self._written = 0

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def write(self, *texts: str | bytes, tag: str = "F", stream: str = "stdout") -> None:
        """Append records."""
        with self.path.open("ab") as log:
            for text in texts:
                self._written += 1
                stamp = f"2026-01-02T03:04:05.{self._written:09}+00:00 {stream} {tag} "
                log.write(stamp.encode() + (text.encode() if isinstance(text, str) else text) + b"\n")

    def rotate(self) -> None:
        """Put an empty file in the log's place."""
        fresh = self.path.with_suffix(".tmp")
        fresh.touch()
        fresh.rename(self.path)

    def reader(self, *, pid: int = 0) -> LogFile:
        """One more reader; `pid` writes the log, as far as it knows."""
        return LogFile(self.path, clock=self.clock, monitor=pid)

    def fill(self, number: int) -> list[str]:
        """Write so many records of 1 KB."""
        texts = [f"{self._written + each} " + "x" * 1000 for each in range(number)]
        self.write(*texts)
        return texts

    def names(self) -> list[str]:
        """The files that there are, as they are numbered."""
        return sorted(entry.name.split(".")[2] for entry in self.path.parent.glob("ctr.log.*.*.*"))


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    """An empty log."""
    return Monitor(tmp_path)


@pytest.fixture
def log(monitor: Monitor) -> Iterator[LogFile]:
    """A reader from the start."""
    with closing(monitor.reader()) as reader:
        yield reader


def rest(log: LogFile) -> list[Record]:
    """All that there is to read."""
    found: list[Record] = []
    while records := log.read():
        found += records
    return found


def texts(log: LogFile) -> list[str]:
    """What all of it says; a loss is told by a `!`."""
    return [("!" if record.line.after_loss else "") + record.line.text for record in rest(log)]


def held(path: Path) -> int:
    """How many descriptors this process has on a file of this name, replaced ones included."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            names.append(str(entry.readlink()))
    return sum(name.startswith(str(path)) for name in names)


def test_records_are_read_as_they_were_written(monitor: Monitor, log: LogFile) -> None:
    """Source, time, partial lines, empty lines and bytes that are no UTF-8 are told as they are."""
    monitor.write("one")
    monitor.write("half", tag="P", stream="stderr")
    monitor.write("", b"bad \xff", "tab\there  two spaces ")
    lines = [record.line for record in rest(log)]
    assert [(line.source, line.text, line.partial, line.lossy) for line in lines] == [
        (LogSource.STDOUT, "one", False, False),
        (LogSource.STDERR, "half", True, False),
        (LogSource.STDOUT, "", False, False),
        (LogSource.STDOUT, "bad \ufffd", False, True),
        (LogSource.STDOUT, "tab\there  two spaces ", False, False),
    ]
    assert lines[0].time == pytest.approx(1767323045.000000001, abs=1e-6)


def test_a_record_being_written_waits_for_its_end(monitor: Monitor, log: LogFile) -> None:
    """Half a record is not told before the rest of it is there; what is no record is passed over."""
    monitor.write("one")
    with monitor.path.open("ab") as file:
        file.write(b"2026-01-02T03:04:06.000000000+00:00 stdout F tw")
    assert texts(log) == ["one"]
    with monitor.path.open("ab") as file:
        file.write(b"o\n\0\0\0 torn\n")
    monitor.write("three")
    assert texts(log) == ["two", "three"]


def test_a_reader_goes_on_through_rotations(monitor: Monitor, log: LogFile) -> None:
    """What was written before a rotation and not read yet comes before what was written after it."""
    monitor.write("1", "2")
    assert texts(log) == ["1", "2"]
    monitor.write("3")
    monitor.rotate()
    monitor.write("4")
    assert texts(log) == ["3", "4"]
    monitor.rotate()
    assert texts(log) == []
    monitor.write("5")
    assert texts(log) == ["5"]


def test_files_are_held_while_an_older_one_is_read(monitor: Monitor, log: LogFile) -> None:
    """A reader that is behind keeps the files that are replaced meanwhile, and lets go of them once read."""
    monitor.write(*("x" * 100 for _ in range(2000)))
    seen = len(log.read())
    for number in range(2):
        monitor.rotate()
        monitor.write(*(f"{number}-{part}" for part in range(3)))
        seen += len(log.read())
    left = texts(log)
    assert (seen + len(left), left[-6:]) == (2006, ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"])
    assert not any("!" in text for text in left)
    assert held(monitor.path) == 1


def test_who_did_not_look_for_long_cannot_be_sure(monitor: Monitor, log: LogFile) -> None:
    """After a rotation that was noticed late, lines may be lost: the next line says so, and only that one."""
    monitor.write("1")
    assert texts(log) == ["1"]
    monitor.rotate()
    monitor.write("2")
    monitor.rotate()
    monitor.write("3", "4")
    monitor.now += 10
    assert texts(log) == ["!3", "4"]


@given(read=st.integers(1, 30), tail=st.integers(0, 40), size=st.sampled_from([1, 3000, 70000]))
def test_a_reader_resumes_and_tails_exactly(
    tmp_path_factory: pytest.TempPathFactory, read: int, tail: int, size: int
) -> None:
    """From the place behind any line the rest follows, and the last n lines are the last n, however long they are."""
    monitor = Monitor(tmp_path_factory.mktemp("log"))
    written = [f"{number} " + "x" * size for number in range(30)]
    monitor.write(*written)
    with closing(monitor.reader()) as first, closing(monitor.reader()) as second, closing(monitor.reader()) as third:
        behind = rest(first)[read - 1].behind
        second.resume(behind)
        assert texts(second) == written[read:]
        third.go_to_tail(tail)
        last = rest(third)
        assert [record.line.text for record in last] == written[max(30 - tail, 0) :]
        if last and tail <= 30:
            assert last[-1].behind.offset == monitor.path.stat().st_size


def test_resuming_after_the_file_is_gone_says_that_lines_may_be_lost(monitor: Monitor) -> None:
    """A place in a file that is gone cannot be had again: what there is follows, and its first line says so."""
    monitor.write("1", "2", "3")
    with closing(monitor.reader()) as first:
        behind = rest(first)[0].behind
    for number in (4, 5, 6):
        monitor.rotate()
        monitor.write(str(number))
        keep(monitor.path, 0)
    with closing(monitor.reader()) as later:
        later.resume(behind)
        assert texts(later) == ["!5", "!6"]
    with closing(monitor.reader()) as other:
        other.resume(Position(generation=1, offset=10**12))
        assert texts(other) == ["!5", "!6"]


def test_a_rotation_while_nobody_reads_takes_nothing(monitor: Monitor) -> None:
    """From a place in the file before the newest the rest follows, without a loss where the monitor can be counted."""
    pid = os.getpid()  # it writes the log here
    first = monitor.fill(100)
    with closing(monitor.reader(pid=pid)) as reader:
        behind = rest(reader)[49].behind
    first += monitor.fill(100)
    monitor.rotate()
    second = monitor.fill(20)
    with closing(monitor.reader(pid=pid)) as later:
        later.resume(behind)
        assert texts(later) == first[50:] + second
    with closing(monitor.reader(pid=pid)) as whole:
        assert texts(whole) == first + second
    for tail in (5, 20, 21, 150, 500):
        with closing(monitor.reader(pid=pid)) as end:
            end.go_to_tail(tail)
            assert texts(end) == (first + second)[-tail:]


def test_a_file_that_was_missed_is_told(monitor: Monitor) -> None:
    """Two rotations while nobody looked: the file in between is gone, and the count of the monitor's bytes shows it."""
    pid = os.getpid()
    first = monitor.fill(100)
    keep(monitor.path, pid)
    monitor.rotate()
    monitor.fill(100)
    monitor.rotate()
    last = monitor.fill(3)
    with closing(monitor.reader(pid=pid)) as reader:
        found = texts(reader)
    assert found == [*first, f"!{last[0]}", *last[1:]]
    assert monitor.names() == ["1", "3"]


def test_another_monitor_goes_on_in_the_same_file(monitor: Monitor) -> None:
    """A container that was started again has another monitor: rotations after that are told apart as well."""
    first = monitor.fill(50)
    keep(monitor.path, 0)
    first += monitor.fill(50)
    keep(monitor.path, os.getpid())
    first += monitor.fill(50)
    monitor.rotate()
    second = monitor.fill(5)
    with closing(monitor.reader(pid=os.getpid())) as reader:
        assert texts(reader) == first + second


def test_no_more_than_three_files_are_on_disk(monitor: Monitor) -> None:
    """Two have second names, however many there were; a third may not have been noticed yet."""
    shelf = Shelf()
    for _ in range(6):
        monitor.fill(10)
        shelf.look({monitor.path: 0})
        monitor.rotate()
    inodes = {entry.stat().st_ino for entry in monitor.path.parent.iterdir()}
    assert len(inodes) == FILES


def test_a_log_that_is_gone_is_not_missed(monitor: Monitor) -> None:
    """Neither by who keeps it nor by who reads it."""
    shelf = Shelf()
    with closing(monitor.reader()) as reader:
        monitor.write("1")
        shelf.look({monitor.path: 0})
        for entry in list(monitor.path.parent.iterdir()):
            entry.unlink()
        shelf.look({monitor.path: 0})
        assert texts(reader) == ["1"]


def test_the_place_in_a_file_that_began_empty_can_be_resumed(monitor: Monitor, log: LogFile) -> None:
    """Who followed from before the first line has a place that another reader finds."""
    assert texts(log) == []
    monitor.write("1", "2")
    behind = rest(log)[0].behind
    with closing(monitor.reader()) as later:
        later.resume(behind)
        assert texts(later) == ["2"]
