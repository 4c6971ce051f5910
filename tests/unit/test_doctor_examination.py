"""The doctor as a whole: order, bounds, its own faults, and that the command works where nothing does."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from gateway.cli.doctor import document, text
from gateway.cli.main import main
from gateway.doctor.examination import SUBJECTS, Examination, looked_at
from gateway.doctor.finding import NAMES, Finding, Severity, Subject
from gateway.doctor.sources import Once, Sources

WORD = Subject("word")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A machine without a settings file."""
    return Sources(tmp_path / "none.toml")


def test_every_subject_can_be_named() -> None:
    """What `--only` takes is what is looked at, in the same order."""
    assert tuple(SUBJECTS) == NAMES


def test_the_worst_comes_first(sources: Sources) -> None:
    """Errors stand before warnings and those before what is good, each in the order of its subject."""
    found = looked_at(
        {
            "one": lambda _: [WORD.ok("a"), WORD.error("b", "do")],
            "two": lambda _: [WORD.warning("c", "do"), WORD.error("d", "do")],
        },
        sources,
        5.0,
    )
    assert [finding.text for finding in found.findings] == ["b", "d", "c", "a"]
    assert found.hung == ()


def test_a_subject_that_hangs_hides_no_other(sources: Sources) -> None:
    """What does not answer within the bound is an error that says so, and the others are told."""
    ever = threading.Event()

    def hang(_: Sources) -> list[Finding]:
        ever.wait()
        return []

    found = looked_at({"hung": hang, "two": lambda _: [WORD.ok("fine")]}, sources, 0.05)
    ever.set()
    assert found.hung == ("hung",)
    (error, fine) = found.findings
    assert (error.subject, error.severity, error.text) == ("hung", Severity.ERROR, "did not answer within 0.05 s")
    assert fine.text == "fine"


def test_a_fault_of_the_doctors_own_hides_no_other(sources: Sources) -> None:
    """A subject that raises is told as such."""

    def fault(_: Sources) -> list[Finding]:
        raise ZeroDivisionError("oops")

    found = looked_at({"bad": fault, "two": lambda _: [WORD.ok("fine")]}, sources, 5.0)
    assert [finding.text for finding in found.findings] == [
        "the doctor itself failed here: ZeroDivisionError: oops",
        "fine",
    ]


def test_what_is_shared_is_read_once() -> None:
    """The second reader gets what the first one read."""
    count = iter(range(9))
    shared = Once(lambda: next(count))
    assert (shared(), shared()) == (0, 0)


def test_what_is_printed() -> None:
    """What to do stands under its finding; the sum counts; JSON has the same words."""
    found = Examination((WORD.error("bad", "mend it"), WORD.ok("good")), ())
    assert text(found) == (
        "ERROR    word  bad\n               -> mend it\nOK       word  good\n\n1 errors, 0 warnings, 1 good"
    )
    assert document(found) == {
        "errors": 1,
        "warnings": 0,
        "findings": [
            {"subject": "word", "severity": "error", "text": "bad", "what_to_do": "mend it"},
            {"subject": "word", "severity": "ok", "text": "good", "what_to_do": ""},
        ],
    }


def test_a_machine_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a settings file the command says that, judges what it can, and ends with status 1."""
    assert main(["doctor", "--json", "--settings", str(tmp_path / "none.toml")]) == 1
    told = json.loads(capsys.readouterr().out)
    by_subject = {finding["subject"]: finding for finding in reversed(told["findings"])}
    assert set(by_subject) == set(NAMES)
    assert "there is no settings file" in by_subject["settings"]["text"]
    assert "could not be looked at" in by_subject["gateways"]["text"]


def test_one_subject_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--only` looks at what it names, and refuses a name that is none."""
    main(["doctor", "--only", "settings", "--json", "--settings", str(tmp_path / "none.toml")])
    assert {finding["subject"] for finding in json.loads(capsys.readouterr().out)["findings"]} == {"settings"}
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--only", "weather"])
    assert ended.value.code == 2
