"""Draws how long the checking writer stood still, from its journal: `python -m tests.stall_plot JOURNAL PNG`.

For each moment the picture has the longest time that any lane had gone without an acknowledgement: the usual latency
while all is well, a ramp while the writer stands still. What was done to the cluster meanwhile is marked.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.checker.journal import SECOND, History, longest_stall, parse

WIDTH, HEIGHT, DOTS = 16.0, 7.0, 100
"""The picture in inches, and dots an inch: 1600 by 700 pixels."""

MOMENTS = 1500
"""How many points the line has at most."""

FINEST = 0.05
"""The shortest time between two of them, in seconds."""

FLOOR = 0.001
"""The least that is drawn, in seconds: the scale is logarithmic."""

LINE, MARK = "#1f5f99", "#b03a2e"


@dataclass(frozen=True)
class Doing:
    """Something that was done, by the marks of its beginning and its end, and how the picture calls it."""

    begins: str
    ends: str
    title: str


DOINGS = (
    Doing("move", "moved", "planned move"),
    Doing("restart", "kill", "agents upgraded"),
    Doing("kill", "restarted", "agent killed"),
    Doing("crash", "crashed", "power cut"),
)
"""What `tests/demo` does; marks that a journal lacks are not drawn."""


def stalls(history: History) -> tuple[list[float], list[float]]:
    """The line: moments in seconds since the run began, and for each the longest time without an acknowledgement.

    That is a gap that ended since the moment before, or one that goes on, as long as it is by then.
    """
    began, ended = history.run.began, history.last_time
    step = max((ended - began) / SECOND / MOMENTS, FINEST)
    count = max(1, round((ended - began) / SECOND / step))
    longest = [0.0] * (count + 1)
    for moments in _acknowledgements(history):
        for before, after in itertools.pairwise([*moments, None]):
            until = ended if after is None else after
            first, last = (int((time - began) / SECOND / step) for time in (before or began, until))
            for index in range(first, min(last, count) + 1):
                reached = min(began + (index + 1) * step * SECOND, until)
                longest[index] = max(longest[index], (reached - (before or began)) / SECOND)
    return [index * step for index in range(count + 1)], [max(value, FLOOR) for value in longest]


def _acknowledgements(history: History) -> list[list[int]]:
    """The times of each lane's acknowledgements in order, that of its first write before them."""
    lanes: dict[int, list[int]] = {}
    for write in sorted(history.writes.values(), key=lambda write: write.ended or write.began):
        moments = lanes.setdefault(write.lane, [write.began])
        if write.acknowledged and write.ended is not None:
            moments.append(write.ended)
    return list(lanes.values())


def draw(history: History, doings: Sequence[Doing] = DOINGS) -> Figure:
    """The picture of a run."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*stalls(history), color=LINE, linewidth=1.3, drawstyle="steps-post")
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, 400)  # room for the words above the longest stall
    axes.set_xlim(0, (history.last_time - history.run.began) / SECOND)
    axes.set_yticks([0.001, 0.01, 0.1, 1, 10, 60], ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "60 s"])
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.set_xlabel("seconds since the writer began")
    axes.set_ylabel("without an acknowledged write")
    axes.set_title(
        f"A writer of 4 KiB blocks in {history.run.lanes} lanes, and what was done to its gateways meanwhile"
    )
    marks = dict(history.marks)
    for number, doing in enumerate(each for each in doings if each.begins in marks):
        since, until = marks[doing.begins], marks.get(doing.ends, history.last_time)
        left, right = ((time - history.run.began) / SECOND for time in (since, until))
        axes.axvspan(left, right, color=MARK, alpha=0.12, linewidth=0)
        axes.axvline(left, color=MARK, linewidth=1)
        words = f"{doing.title}\n{longest_stall(history, since, until).seconds:.2f} s at the longest"
        axes.annotate(
            words,
            (left, 300 if number % 2 == 0 else 130),
            xytext=(4, 0),
            textcoords="offset points",
            color=MARK,
            va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},  # over the next mark's line
        )
    return figure


def main() -> int:
    """Draw the journal that is named into the file that is named."""
    journal, picture = map(Path, sys.argv[1:3])
    mpl.use("Agg")
    with journal.open() as lines:
        draw(parse(lines)).savefig(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
