"""The command line's chapter and its `--help` say the same: every command and option, in both directions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from pathlib import Path

import pytest

from gateway.cli.arguments import GROUPS
from tests.unit.command_line import command_parsers

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "gateway/cli/README.md"
NAMING = (
    "README.md",
    "agent/README.md",
    "agent/monitoring/RUNBOOK.md",
    "agent/monitoring/SETUP.md",
    "gateway/actions/README.md",
    "gateway/cli/README.md",
    "gateway/lio/README.md",
    "tests/lab/README.md",
)
"""The chapters that name commands."""

EVERYWHERE = {"--help", "--json", "--settings", "--wait", "--no-wait", "--timeout", "--version"}
"""Options of all commands, or of all that wait: the chapter has them in its beginning."""


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of one command."""
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


def mentions(text: str) -> list[tuple[str, set[str]]]:
    """Each `rbdgate WORDS ...` in code, with the options on its line (or on the lines a backslash joins to it).

    In code that stands by itself it begins the line, or follows a prompt or the `--` of `lab exec`.
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^ *```.*?^ *```", joined, re.MULTILINE | re.DOTALL)
    written = [
        match for block in blocks for match in re.finditer(r"(?:^\s*|\$ |-- )rbdgate ([a-z].*)", block, re.MULTILINE)
    ]
    written += re.finditer(r"(?<!`)`rbdgate ([a-z][^`\n]*)", joined)
    found: list[tuple[str, set[str]]] = []
    for match in written:
        words: list[str] = []
        options: set[str] = set()
        for word in match[1].split():
            if word.startswith("--"):
                options.add(word.partition("=")[0].rstrip(",.;)"))
            elif not options and re.fullmatch(r"[a-z-]+", word) and len(words) < 3:
                words.append(word)
        found.append((" ".join(words), options))
    return found


def sections(text: str) -> dict[str, str]:
    """The text under each heading, by the commands that the heading names."""
    parts = re.split(r"^##+ (.*)$", text, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        for command in re.findall(r"`rbdgate ([a-z -]+)`", heading):
            found[command.strip()] = body
    return found


def test_every_command_has_its_section_with_every_option() -> None:
    """A heading names each command, and the text under it each option that not all commands have."""
    by_command = sections(CHAPTER.read_text())
    for command, parser in command_parsers().items():
        assert command in by_command, f"no heading of the chapter names `rbdgate {command}`"
        for option in options_of(parser) - EVERYWHERE:
            assert option in by_command[command], f"the section of `rbdgate {command}` lacks {option}"


@pytest.mark.parametrize("chapter", NAMING)
def test_every_command_and_option_of_a_chapter_exists(chapter: str) -> None:
    """Whatever `rbdgate ...` a chapter writes is a command, with options that this command has."""
    commands, written = command_parsers(), mentions((ROOT / chapter).read_text())
    assert written, f"{chapter} names no command"
    for words, options in written:
        group = words.partition(" ")[0]
        assert group in GROUPS, f"`rbdgate {words}` is no command"
        name = _command(words, commands) if GROUPS[group].further else group
        assert name in commands or name == group, f"`rbdgate {words}` is no command"
        known = options_of(commands[name]) if name in commands else set()
        assert options <= known | {"--help"}, f"`rbdgate {words}` has no option {sorted(options - known)}"


def _command(words: str, commands: Collection[str]) -> str:
    """The command that words begin with; what follows it are its arguments. All of them if they begin with none."""
    parts = words.split()
    begins = (" ".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((begin for begin in begins if begin in commands), words)


def test_every_option_in_backquotes_exists() -> None:
    """An option that the chapter names by itself is one of some command."""
    known = set[str]().union(*map(options_of, command_parsers().values())) | EVERYWHERE
    named = set(re.findall(r"`(--[a-z-]+)[ `=]", CHAPTER.read_text()))
    assert named <= known, sorted(named - known)


def test_help_tells_every_command() -> None:
    """`--help` of each group lists its commands, and each command says what it is for."""
    for command, parser in command_parsers().items():
        assert parser.description, command
        assert all(action.help for action in parser._actions), command
