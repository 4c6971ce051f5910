"""README says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from gateway.timers import Timers

ROOT = Path(__file__).parents[2]


def test_the_table_of_timers_is_the_one_in_the_code() -> None:
    """Every timer stands in README with the default it has, and no other does."""
    text = (ROOT / "README.md").read_text().partition("<!-- timers:")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", text, re.MULTILINE)
    assert {name: float(value) for name, value in rows} == {
        field.name: getattr(Timers(), field.name) for field in fields(Timers)
    }


def test_every_file_readme_links_to_exists() -> None:
    """No link of README or a chapter leads nowhere."""
    for chapter in (ROOT / "README.md", *ROOT.glob("*/**/README.md")):
        if ".venv" in chapter.parts:
            continue
        for link in re.findall(r"\]\(([^)#:]+)\)", chapter.read_text()):
            assert (chapter.parent / link).exists(), f"{chapter.relative_to(ROOT)}: {link}"
