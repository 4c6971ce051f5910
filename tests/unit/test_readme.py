"""README says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.timers import Timers
from tests.lab_product.interruptions import Interruption

ROOT = Path(__file__).parents[2]


def test_the_table_of_timers_is_the_one_in_the_code() -> None:
    """Every timer stands in README with the default it has, and no other does."""
    text = (ROOT / "README.md").read_text().partition("<!-- timers:")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", text, re.MULTILINE)
    assert {name: float(value) for name, value in rows} == {
        field.name: getattr(Timers(), field.name) for field in fields(Timers)
    }


CHAPTERS = tuple(
    ROOT / chapter
    for chapter in (
        "README.md",
        "agent/README.md",
        "agent/monitoring/RUNBOOK.md",
        "agent/monitoring/SETUP.md",
        "agent/systemd/README.md",
        "ansible/README.md",
        "gateway/actions/README.md",
        "gateway/cli/README.md",
        "gateway/lio/README.md",
        "tests/lab/README.md",
    )
)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: str(chapter.relative_to(ROOT)))
def test_every_link_leads_somewhere(chapter: Path) -> None:
    """Every file that a chapter links to exists, and so does every heading of its own."""
    text = chapter.read_text()
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)}
    links = re.findall(r"\]\(([^)]+)\)", text)
    for link in links:
        file, _, heading = link.partition("#")
        assert "://" in link or (chapter.parent / file).exists(), link
        assert file or heading in headings, link


def test_the_table_of_stalls_has_what_tests_measure() -> None:
    """Every interruption that a test of the lab puts on record is a row of README's table, and the other way round."""
    table = (ROOT / "README.md").read_text().partition("<!-- stalls:")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \| [\d.]+ s", table, re.MULTILINE)
    assert sorted(rows) == sorted(each.value for each in Interruption)
    tests = "".join(file.read_text() for file in (ROOT / "tests/lab_product").glob("test_*.py"))
    assert set(re.findall(r"\bInterruption\.([A-Z_]+)\b", tests)) == {each.name for each in Interruption}
