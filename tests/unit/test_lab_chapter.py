"""The lab's chapter and its command line say the same."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from tests.lab.command import whole_parser

CHAPTER = Path(__file__).parents[1] / "lab/README.md"


def test_the_chapter_lists_every_command() -> None:
    """The chapter's table has each command there is, and no other."""
    table = CHAPTER.read_text().partition("| command | does |")[2].partition("\n\n")[0]
    named = {word for row in table.splitlines() for word in re.findall(r"`([a-z]+)\b[^`]*`", row.split(" | ")[0])}
    (commands,) = (a for a in whole_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert named == set(commands.choices)


def test_every_example_of_the_chapter_is_one() -> None:
    """The command line takes each `tests/lab/lab ...` that the chapter shows."""
    examples = re.findall(r"^tests/lab/lab ([^#\n]+)", CHAPTER.read_text(), re.MULTILINE)
    assert examples
    for example in examples:
        words = example.partition(" -- ")[0].split()
        assert whole_parser().parse_args(words).act, example
