"""The record of a run: what is left out the next time, and what is not."""

from __future__ import annotations

import pytest

from tests import recording, stalls
from tests.recording import Record, Result, finished

pytest_plugins = ["pytester"]

PASSED, FAILED, SKIPPED = Result("passed", 1.0), Result("failed", 1.0), Result("skipped", 0.0)
TESTS = ("a.py::one", "a.py::two[x]", "b.py::one")


def record(**outcomes: Result) -> Record:
    """A record of the tests whose numbers are named."""
    return Record("c1", "today", "a machine", {TESTS[int(key[1:])]: result for key, result in outcomes.items()})


@pytest.mark.parametrize(
    ("kept", "left_out"),
    [
        (record(), set[str]()),
        (record(t0=PASSED), set[str]()),
        (record(t0=PASSED, t1=PASSED), {"a.py"}),
        (record(t0=PASSED, t1=SKIPPED, t2=FAILED), {"a.py"}),
        (record(t0=PASSED, t1=FAILED, t2=PASSED), {"b.py"}),
    ],
)
def test_only_whole_files_without_a_failure_are_left_out(kept: Record, left_out: set[str]) -> None:
    """A file is finished when each of its tests is on record and none failed."""
    assert finished(kept, TESTS) == left_out


def test_the_worst_phase_is_the_outcome() -> None:
    """A failed tear-down fails a test that passed, a skip in set-up is no pass, and the seconds add up."""
    begun = Result("passed", 0.0)
    assert begun.with_phase("passed", 1.0).with_phase("passed", 2.0) == Result("passed", 3.0)
    assert begun.with_phase("passed", 1.0).with_phase("failed", 0.5) == Result("failed", 1.5)
    assert begun.with_phase("skipped", 0.0).with_phase("passed", 0.0).outcome == "skipped"
    assert begun.with_phase("failed", 1.0).with_phase("passed", 0.0).outcome == "failed"


def test_a_record_is_read_back_as_written() -> None:
    """The file has one test a line, and reading it gives the same record."""
    kept = record(t0=PASSED, t1=Result("passed", 2.0, {"power cut": 11.5}), t2=FAILED)
    assert Record.from_json(kept.to_json()) == kept
    assert sum('"outcome"' in line for line in kept.to_json().splitlines()) == len(TESTS)


def test_uncommitted_changes_are_never_the_same_code() -> None:
    """What was run on changes that nobody can look up is not taken for anything."""
    changed = "c1" + recording.CHANGED
    assert not recording.same_code(changed, changed)
    assert not recording.same_code("c1", changed)
    assert recording.same_code("c1", "c1")


def test_the_table_has_the_longest_stall_of_each_kind() -> None:
    """Of several tests that measured the same kind of event the worst one counts, and how many they were."""
    kept = record(
        t0=Result("passed", 1.0, {"power cut": 11.5, "planned move": 2.3}),
        t1=Result("passed", 1.0, {"power cut": 12.25}),
    )
    assert stalls.table(kept).splitlines()[2:] == ["| planned move | 2.30 s | 1 |", "| power cut | 12.25 s | 2 |"]


def test_stalls_are_put_on_record_with_their_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test or its tear-down measured is kept, by kind."""
    monkeypatch.setattr(recording, "code_now", lambda: "c1")
    pytester.makepyfile("def test_it(record_property): record_property('stall', ('power cut', 1.5))")
    pytester.inline_run("-p", "tests.recording", "--record", "kept.json", "-p", "no:cacheprovider")
    (result,) = Record.from_json(pytester.path.joinpath("kept.json").read_text()).tests.values()
    assert result.stalls == {"power cut": 1.5}


LOOKS = """
import pytest
pytestmark = pytest.mark.looks_back
def test_back(): pass
"""


def test_a_second_run_does_what_the_first_left(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure only its file and what looks back on it run again; when all is well nothing does."""
    monkeypatch.setattr(recording, "code_now", lambda: "c1")
    pytester.makeini("[pytest]\nmarkers = looks_back")
    broken = "import os\ndef test_it(): assert os.path.exists('mended')"
    pytester.makepyfile(test_good="def test_it(): pass", test_bad=broken, test_look=LOOKS)
    words = ("-p", "tests.recording", "--record", "kept.json", "-p", "no:cacheprovider")
    pytester.inline_run(*words).assertoutcome(passed=2, failed=1)
    pytester.inline_run(*words).assertoutcome(passed=1, failed=1)
    pytester.path.joinpath("mended").touch()
    pytester.inline_run(*words).assertoutcome(passed=2)
    last = pytester.inline_run(*words)
    last.assertoutcome()
    assert last.ret == pytest.ExitCode.OK
    monkeypatch.setattr(recording, "code_now", lambda: "c2")
    monkeypatch.setattr(recording, "same_code", lambda *_: False)
    pytester.inline_run(*words).assertoutcome(passed=3)
