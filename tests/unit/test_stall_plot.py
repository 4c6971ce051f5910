"""The picture of a run's stalls: its line is the journal's, its marks are where they were made, and it is a picture."""

from __future__ import annotations

import struct
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from tests import stall_plot
from tests.checker.journal import SECOND, History, parse

RUN = f"run {bytes(16).hex()} /dev/x 0 256 2 0\n"
USUAL = 0.02
"""Seconds from one acknowledgement to the next."""


def journal(stalls: dict[float, float], seconds: float, marks: dict[str, float]) -> list[str]:
    """A journal of two lanes that write every USUAL seconds but for stalls: when they begin, and how long they are."""
    lines, sequence = [RUN], 0
    for lane in (0, 1):
        now = 0.0
        while now < seconds:
            begun = now
            now += next((long for at, long in stalls.items() if now <= at < now + USUAL), USUAL)
            sequence += 1
            lines += [f"w {lane} 0 {sequence} {int(begun * SECOND)}\n", f"a {lane} 0 {sequence} {int(now * SECOND)}\n"]
    lines += [f"m {name} {int(at * SECOND)}\n" for name, at in marks.items()]
    return [*lines, f"end {int(seconds * SECOND)}\n"]


MARKS = {
    "move": 20.0,
    "moved": 24.0,
    "restart": 40.0,
    "kill": 70.0,
    "restarted": 85.0,
    "crash": 100.0,
    "crashed": 114.0,
}


@pytest.fixture
def run() -> History:
    """A run of two minutes like the demo's: a stall of 2.5 s in the move and one of 12 s in the power cut."""
    return parse(journal({20.5: 2.5, 100.5: 12.0, 60.0: 0.14}, 120.0, MARKS))


def test_the_line_is_what_the_journal_says(run: History) -> None:
    """The usual latency while all is well, a ramp up to the whole stall, and the usual again."""
    moments, longest = stall_plot.stalls(run)
    assert len(moments) == len(longest) <= stall_plot.MOMENTS + 1
    by_time = dict(zip(moments, longest, strict=True))

    def between(since: float, until: float) -> list[float]:
        return [value for at, value in by_time.items() if since <= at <= until]

    assert max(between(1, 19)) == pytest.approx(USUAL, abs=0.001)
    assert max(between(20, 24)) == pytest.approx(2.5, abs=0.01)
    assert max(between(59, 61)) == pytest.approx(0.14, abs=0.01)
    ramp = between(101, 111)
    assert ramp == sorted(ramp)
    assert max(between(100, 114)) == pytest.approx(12.0, abs=0.01)
    assert max(between(114, 119)) == pytest.approx(USUAL, abs=0.001)


def test_a_writer_that_never_goes_on_is_drawn_to_the_end() -> None:
    """A lane whose last write hangs stands still up to the journal's end."""
    lines = [RUN, "w 0 0 1 0\n", "a 0 0 1 10000\n", "w 0 0 2 20000\n", "w 1 0 3 0\n", "a 1 0 3 9000000\n"]
    _, longest = stall_plot.stalls(parse(lines))
    assert max(longest) == pytest.approx(9.0, abs=0.02)


def test_the_picture_has_the_line_and_the_marks(run: History) -> None:
    """What is drawn is the line of the journal; each thing that was done begins at its mark, with its longest stall."""
    axes = stall_plot.draw(run).axes[0]
    line, *verticals = axes.lines
    moments, longest = stall_plot.stalls(run)
    assert np.asarray(line.get_xydata()).tolist() == [list(point) for point in zip(moments, longest, strict=True)]
    assert [np.asarray(each.get_xydata())[0][0] for each in verticals] == [20.0, 40.0, 70.0, 100.0]
    assert [text.get_text() for text in axes.texts] == [
        "planned move\n2.50 s at the longest",
        "agents upgraded\n0.14 s at the longest",
        "agent killed\n0.02 s at the longest",
        "power cut\n12.00 s at the longest",
    ]


def test_the_file_is_a_picture_of_that_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the journal's file to a PNG of 1600 by 700 pixels, on which the line and the marks can be seen."""
    file, picture = tmp_path / "journal", tmp_path / "stalls.png"
    file.write_text("".join(journal({20.5: 2.5, 100.5: 12.0}, 120.0, MARKS)))
    monkeypatch.setattr("sys.argv", ["stall_plot", str(file), str(picture)])
    assert stall_plot.main() == 0
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (1600, 700)
    pixels = matplotlib.image.imread(picture)[:, :, :3]
    for colour in (stall_plot.LINE, stall_plot.MARK):
        wanted = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert (abs(pixels - wanted).max(axis=2) < 0.05).sum() > 500, colour
