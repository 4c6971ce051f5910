"""The writer's journal: one line of text for everything that happened, and the history read back from it.

Lines, with times in microseconds of the initiator's CLOCK_MONOTONIC:

    run RUN DEVICE OFFSET BLOCKS LANES TIME      the first line; RUN is 32 hex digits, OFFSET in bytes
    w LANE BLOCK SEQUENCE TIME                   a write was handed to the kernel
    a LANE BLOCK SEQUENCE TIME                   it was acknowledged
    e LANE BLOCK SEQUENCE TIME ERRNO             it ended in an error: it may or may not have landed
    r LANE BLOCK OLDEST NEWEST TIME              a read during the run found this instead of what was acknowledged
                                                 (-1 -1: nothing of this run)
    m NAME TIME                                  somebody marked an event
    end TIME                                     the writer stopped in good order

Pure: no I/O, no clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SECOND = 1_000_000  # microseconds


class BadJournal(ValueError):
    """A line that no writer writes; the message names it."""


@dataclass(frozen=True)
class Write:
    """One write of one lane; `ended` is None while it is in flight, `error` its errno (0: none, -1: a short write)."""

    lane: int
    block: int
    sequence: int
    began: int
    ended: int | None = None
    error: int = 0

    @property
    def acknowledged(self) -> bool:
        """Whether the initiator was told that the data is there."""
        return self.ended is not None and self.error == 0


@dataclass(frozen=True)
class Misread:
    """A read in the middle of the run that found a block older than acknowledged, or nothing of this run (-1)."""

    block: int
    oldest: int
    newest: int
    time: int


@dataclass(frozen=True)
class Run:
    """What was written where: the journal's first line; `offset` in bytes."""

    run: bytes
    device: str
    offset: int
    blocks: int
    lanes: int
    began: int


@dataclass(frozen=True)
class History:
    """A whole journal; `writes` by sequence, `marks` in the order they were made."""

    run: Run
    writes: Mapping[int, Write]
    misreads: tuple[Misread, ...] = ()
    marks: tuple[tuple[str, int], ...] = ()
    ended: int | None = None
    acknowledged: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "acknowledged", sum(write.acknowledged for write in self.writes.values()))

    @property
    def last_time(self) -> int:
        """The time of the last thing that is on record."""
        times = [write.ended or write.began for write in self.writes.values()]
        return max([self.run.began, self.ended or 0, *times, *(time for _, time in self.marks)])

    def in_flight(self, time: int) -> int:
        """How many writes were under way at that time."""
        return sum(w.began <= time and (w.ended is None or w.ended > time) for w in self.writes.values())

    def mark(self, name: str) -> int:
        """When that event was marked (the last time, if several); KeyError if it never was."""
        return dict(self.marks)[name]


def parse(lines: Iterable[str]) -> History:
    """Read a whole journal; BadJournal names the first line that is wrong."""
    reader = Reader()
    reader.feed("".join(lines))
    return reader.history


class Reader:
    """Reads a journal piece by piece, as it grows; a last line without its newline waits for the rest of it."""

    def __init__(self) -> None:
        self._draft: _Draft | None = None
        self._rest = ""
        self._lines = 0

    def feed(self, text: str) -> None:
        """Take the next piece in; BadJournal names the first line that is wrong."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._lines += 1
            try:
                if self._draft is None:
                    self._draft = _Draft(_run(line.split()))
                else:
                    self._draft.add(*line.split())
            except (ValueError, TypeError) as error:
                raise BadJournal(f"line {self._lines} {line!r}: {error}") from None

    @property
    def history(self) -> History:
        """All that was read so far; BadJournal while that is nothing."""
        draft = self._draft
        if draft is None:
            raise BadJournal("the journal is empty")
        return History(draft.run, dict(draft.writes), tuple(draft.misreads), tuple(draft.marks), draft.ended)


def _run(words: list[str]) -> Run:
    if len(words) != 7 or words[0] != "run" or len(words[1]) != 32:
        raise ValueError("the first line must name the run")
    offset, blocks, lanes, began = (int(word) for word in words[3:])
    return Run(bytes.fromhex(words[1]), words[2], offset, blocks, lanes, began)


@dataclass
class _Draft:
    """A history while its journal is read, line by line."""

    run: Run
    writes: dict[int, Write] = field(default_factory=dict)
    misreads: list[Misread] = field(default_factory=list)
    marks: list[tuple[str, int]] = field(default_factory=list)
    ended: int | None = None

    def add(self, kind: str, *words: str) -> None:
        """Take one line in; ValueError if it is none."""
        if kind == "m":
            name, moment = words
            self.marks.append((name, int(moment)))
            return
        numbers = [int(word) for word in words]
        match kind, numbers:
            case "w", [lane, block, sequence, time]:
                if sequence in self.writes:
                    raise ValueError("this sequence is on record already")
                self.writes[sequence] = Write(lane, block, sequence, time)
            case "a", [lane, block, sequence, time]:
                self._end(lane, block, sequence, time, 0)
            case "e", [lane, block, sequence, time, error]:
                self._end(lane, block, sequence, time, error or -1)
            case "r", [_, block, oldest, newest, time]:
                self.misreads.append(Misread(block, oldest, newest, time))
            case "end", [time]:
                self.ended = time
            case _:
                raise ValueError("no such line")

    def _end(self, lane: int, block: int, sequence: int, time: int, error: int) -> None:
        begun = self.writes.get(sequence)  # an outcome without a beginning counts too: rather suspect than trust
        began = time if begun is None else begun.began
        self.writes[sequence] = Write(lane, block, sequence, began, time, error)


@dataclass(frozen=True)
class Stall:
    """The longest time one lane went without an acknowledgement; times in microseconds of the journal's clock."""

    seconds: float
    lane: int
    began: int
    ended: int


def longest_stall(history: History, since: int | None = None, until: int | None = None) -> Stall:
    """The longest gap of any lane that overlaps [since, until]; a lane that hangs to the end counts up to there.

    A gap runs from one acknowledgement (or the lane's first write) to the next one of the same lane.
    """
    since = history.run.began if since is None else since
    until = history.last_time if until is None else until
    longest = Stall(0.0, -1, since, since)
    for lane in {write.lane for write in history.writes.values()}:
        mine = [write for write in history.writes.values() if write.lane == lane]
        moments = sorted({min(write.began for write in mine)} | {w.ended for w in mine if w.ended and w.acknowledged})
        if any(not write.acknowledged and write.ended is None for write in mine):
            moments.append(max(moments[-1], history.last_time))
        for began, ended in itertools.pairwise(moments):
            if ended > since and began < until and ended - began > longest.seconds * SECOND:
                longest = Stall((ended - began) / SECOND, lane, began, ended)
    return longest
