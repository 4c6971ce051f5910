"""The guard's figures: what it counted reaches the agent's scrape, and what is not known is not told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.monitoring.buckets import QUICK
from agent.monitoring.guard_figures import guard_figures
from agent.monitoring.guard_file import LARGEST, GuardFigures, GuardWord, read_word
from agent.monitoring.tables import Table
from gateway.errors import LostRace
from gateway.reasons import FailureKind
from gateway.timers import GUARD_STALE

UID = "00000000000000a1"


def written(path: Path, now: float = 100.0) -> tuple[Path, dict[str, object]]:
    """A file of a guard that has done everything once, written at that time, and what it says."""
    figures = GuardFigures(lambda: 97.0, 5.0)
    with figures.waiting():
        figures.committed(UID, 0.003)
        figures.committed(UID, 99.0)
        figures.failed(LostRace("another"))
        figures.failed(None)
        figures.condemned("b")
        figures.cut()
        figures.table(UID, Table(2, reserved=True, size=10))
        text = figures.text(now, cut=True, mounted=True, requests=4)
    file = path / "figures"
    file.write_text(text)
    return file, json.loads(text)


def test_what_the_guard_counts_is_read_back(tmp_path: Path) -> None:
    """Nothing is lost on the way, and a write that waits is told with its age."""
    file, _ = written(tmp_path)
    word = read_word(file, 101.0)
    assert word is not None
    assert (word.held, word.oldest, word.cut, word.mounted, word.requests, word.started) == (1, 3.0, True, True, 4, 5.0)
    assert (word.cuts, word.condemned, word.lost_races, word.commits) == (1, 1, 1, {UID: 2})
    assert word.failures == {**dict.fromkeys(FailureKind, 0), FailureKind.RACE: 1, FailureKind.STORAGE: 1}
    assert (sum(word.buckets), word.buckets[-1], word.seconds) == (2, 1, 99.003)
    assert word.tables == {UID: Table(2, reserved=True, size=10)}


def test_an_old_or_missing_file_says_nothing(tmp_path: Path) -> None:
    """A guard that hangs or is gone leaves a file that is not believed, nor is one of the future."""
    file, _ = written(tmp_path)
    assert read_word(file, 100.0 + GUARD_STALE) is None
    assert read_word(file, 100.0 - GUARD_STALE) is None
    assert read_word(tmp_path / "none", 100.0) is None


@pytest.mark.parametrize(
    "change",
    [
        {"held": -1},
        {"held": True},
        {"time": "now"},
        {"time": float("nan")},
        {"oldest": None},
        {"buckets": [1, 2]},
        {"buckets": ["x"] * (len(QUICK) + 1)},
        {"commits": [1]},
        {"failures": {"free text": 1}},
        {"tables": {UID: [1, True]}},
        {"tables": {UID: 7}},
    ],
)
def test_a_damaged_word_is_no_word(tmp_path: Path, change: dict[str, object]) -> None:
    """One wrong value and nothing of the file is believed."""
    file, form = written(tmp_path)
    file.write_text(json.dumps(form | change))
    assert read_word(file, 100.0) is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100000, b" " * (LARGEST + 1)])
def test_garbage_is_no_word(tmp_path: Path, text: bytes) -> None:
    """Neither is a text that nests for ever, or one that is larger than it may be."""
    file = tmp_path / "figures"
    file.write_bytes(text)
    assert read_word(file, 100.0) is None


def figures_of(sign: float | None, word: GuardWord | None) -> dict[str, float]:
    """The guard's figures at time 100, by name."""
    families = guard_figures(sign, 100.0, word, {UID: "rbd/a"})
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_no_guard_is_0_and_what_it_would_say_is_absent() -> None:
    """Without a sign the guard is down, its age unknown; without its file nothing else is said of it."""
    assert figures_of(None, None) == {"rbdgate_guard_up": 0}
    assert figures_of(90.0, None) == {"rbdgate_guard_up": 0, "rbdgate_guard_sign_age_seconds": 10.0}
    assert figures_of(99.0, GuardWord(99.0, 5.0))["rbdgate_guard_up"] == 1


def test_failures_are_counted_from_0(tmp_path: Path) -> None:
    """Each kind is told before one has happened, so that a scrape sees the first one as a rise."""
    path = tmp_path / "figures"
    path.write_text(GuardFigures(lambda: 97.0, 5.0).text(100.0, cut=False, mounted=True, requests=0))
    failures = next(
        family
        for family in guard_figures(99.0, 100.0, read_word(path, 100.0), {})
        if family.name == "rbdgate_reservation_commit_failures"
    )
    told = {sample.labels["reason"]: sample.value for sample in failures.samples}
    assert told == {kind.value: 0 for kind in FailureKind}


def test_commits_of_images_that_are_not_known_are_left_out() -> None:
    """The label is the image's name; a uid without one is no figure."""
    word = GuardWord(99.0, 5.0, commits={UID: 2, "00000000000000ff": 9})
    assert figures_of(99.0, word)["rbdgate_reservation_commits_total"] == 2
