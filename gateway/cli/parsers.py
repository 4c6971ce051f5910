"""What the modules of the command groups build their parsers with, and how wrong usage is told.

A group's module has `add(commands)`, which makes a `leaf` for each of its commands and names the function that runs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from gateway.cli.completing import Kind, Names, files
from gateway.cli.values import parse_seconds
from gateway.errors import BadInput
from gateway.model import ImageName, Label

if TYPE_CHECKING:
    from gateway.cli.session import Run, RunAlone

T = TypeVar("T")
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Check: TypeAlias = Callable[[argparse.Namespace], str | None]

EPILOG = """exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 accepted but not reached within --timeout.
With --json a command prints one JSON document on standard output; if it fails, that is
{"error": {"kind": ..., "message": ...}}, and the message is on standard error as well."""

MINUTE = 60
"""How long most commands wait by default, in seconds."""


class WrongUsage(Exception):
    """How a command should have been written, and what was wrong with it."""

    def __init__(self, usage: str, message: str) -> None:
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """A parser that leaves it to its caller to tell what is wrong."""

    def __init__(self, **keywords: Any) -> None:  # noqa: ANN401 - whatever this Python's argparse passes
        super().__init__(
            **keywords,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            epilog=EPILOG,
        )

    def error(self, message: str) -> NoReturn:
        """What argparse calls when it is refused something."""
        raise WrongUsage(self.format_usage(), message)


def subcommands(parser: argparse.ArgumentParser) -> Commands:
    """Where a group's commands are added to its parser."""
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)


def leaf(
    commands: Commands,
    word: str,
    run: Run,
    purpose: str,
    *,
    waits: float = 0,
    description: str = "",
    check: Check | None = None,
) -> argparse.ArgumentParser:
    """One command, run by `run`; with `waits` (seconds) it looks on until its wish is reached, for so long by default.

    `check` says what is wrong with options that do not go together.
    """
    parser: argparse.ArgumentParser = commands.add_parser(word, help=purpose, description=description)
    furnish(parser, run, purpose, waits=waits, check=check)
    return parser


def furnish(
    parser: argparse.ArgumentParser, run: Run, purpose: str, *, waits: float = 0, check: Check | None = None
) -> None:
    """Make a parser one of a command: what runs it, and the options that every command has."""
    _describe(parser, purpose)
    parser.set_defaults(run=run, check=check)
    if waits:
        parser.add_argument(
            "--timeout",
            type=typed(parse_seconds),
            default=float(waits),
            metavar="SECONDS",
            help=f"how long to wait; default: {waits:g}",
        )
        wait = parser.add_mutually_exclusive_group()
        wait.add_argument(
            "--wait", dest="wait", action="store_true", default=True, help="until it is reached (default)"
        )
        wait.add_argument("--no-wait", dest="wait", action="store_false", help="only until it is accepted")


def furnish_alone(parser: argparse.ArgumentParser, run: RunAlone, purpose: str) -> None:
    """The same for a command that needs no session: it works before there is a cluster, and while none answers."""
    _describe(parser, purpose)
    parser.set_defaults(alone=run)


def image_argument(command: argparse.ArgumentParser) -> None:
    """Let the command name an image."""
    purpose = "POOL/NAME or POOL/NAMESPACE/NAME"
    image = command.add_argument("image", type=typed(ImageName.parse), metavar="IMAGE", help=purpose)
    completed(image, Kind.IMAGE)


def clearing_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take registrations away with the access."""
    purpose = "take the initiator's registrations and what they hold away, too"
    command.add_argument("--clear-registration", action="store_true", help=purpose)
    command.add_argument("--reason", metavar="TEXT", help="why; kept with the event")


def clears_for_a_reason(chosen: argparse.Namespace) -> str | None:
    """What is wrong if registrations are to go and nobody says why."""
    unsaid = getattr(chosen, "clear_registration", False) and not chosen.reason
    return "--clear-registration needs a --reason" if unsaid else None


def node_argument(command: argparse.ArgumentParser) -> None:
    """Let the command name a node."""
    completed(command.add_argument("node", type=typed(Label), metavar="NODE", help="the node's name"), Kind.NODE)


def nodes_argument(command: argparse.ArgumentParser) -> None:
    """Let the command name any number of nodes."""
    nodes = command.add_argument("nodes", type=typed(Label), nargs="*", metavar="NODE", help="the nodes' names")
    completed(nodes, Kind.NODE)


def completed(argument: argparse.Action, *kinds: Kind, ending: str = "") -> None:
    """Let the shell complete the argument with live names of those kinds, each with `ending` behind it."""
    argument.completer = Names(kinds, ending)  # type: ignore[attr-defined] # where argcomplete looks for it


def typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The parser as argparse wants it: what it refuses is told with its own words."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except BadInput as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _describe(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.description = parser.description or sentence(purpose)
    parser.set_defaults(words=parser.prog.partition(" ")[2])
    settings = parser.add_argument("--settings", type=Path, metavar="FILE", help="default: /etc/rbdgate/rbdgate.toml")
    settings.completer = files  # type: ignore[attr-defined]
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def sentence(purpose: str) -> str:
    """A purpose as a description."""
    return purpose[0].upper() + purpose[1:] + "."
