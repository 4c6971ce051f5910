"""The whole command line, group by group. What is malformed in itself is wrong usage: exit status 2.

A group of commands is one module of this package with `add`, and one line in `GROUPS`. Only the module of the group
that is called is loaded, for on a slow gateway nothing should wait for what another command needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module

from gateway.cli.output import as_json
from gateway.cli.parsers import Parser, WrongUsage, sentence, subcommands


@dataclass(frozen=True)
class Group:
    """A first word of the command line: its module, what it is for, and whether further words follow it."""

    module: str
    purpose: str
    further: bool = True


GROUPS = {
    "cluster": Group("gateway.cli.cluster", "make and show the cluster"),
    "image": Group("gateway.cli.image", "make, adopt, place, stop, grow and delete images"),
    "events": Group("gateway.cli.events", "what happened, and why", further=False),
    "initiator": Group("gateway.cli.initiator", "who may log in to an image, and how"),
    "reservation": Group("gateway.cli.reservation", "who is registered at an image, and who holds it"),
    "secrets": Group("gateway.cli.secrets", "the key that CHAP secrets are sealed with, on this node"),
    "node": Group("gateway.cli.node", "the gateways, and what is asked of them"),
    "plan": Group("gateway.cli.plan", "what this node would do now, without doing it", further=False),
    "completion": Group("gateway.cli.completion", "shell completion with live names", further=False),
    "status": Group("gateway.cli.status", "the whole cluster: images and nodes", further=False),
    "monitoring": Group("gateway.cli.monitoring", "alerting rules and dashboards for Prometheus and Grafana"),
    "doctor": Group("gateway.cli.doctor", "what may be wrong with this gateway", further=False),
}
"""A module's `add` gets where its commands go, or with `further=False` the parser of the one command it is."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options; `run` is what runs it.

    Wrong usage and `--help` end the process, with exit status 2 and 0.
    """
    try:
        found = whole_parser(called(arguments)).parse_args(arguments)
        _check(found)
    except WrongUsage as wrong:
        print(f"{wrong.usage}rbdgate: {wrong}", file=sys.stderr)
        if "--json" in arguments:
            print(as_json({"error": {"kind": "Usage", "message": str(wrong)}}))
        raise SystemExit(2) from None
    return found


def called(words: Sequence[str]) -> list[str]:
    """The group that a command line names, if it names one."""
    return [word for word in words if not word.startswith("-")][:1]


def whole_parser(loaded: Collection[str] = tuple(GROUPS)) -> Parser:
    """The parser of everything; groups that are not `loaded` have their first word only."""
    parser = Parser(prog="rbdgate", description="Highly available iSCSI gateways for Ceph RBD.")
    parser.add_argument("--version", action="store_true", help="print the version")
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for word, group in GROUPS.items():
        entry = groups.add_parser(word, help=group.purpose, description=sentence(group.purpose))
        if word in loaded:
            import_module(group.module).add(subcommands(entry) if group.further else entry)
    return parser


def _check(found: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if not found.version and not (hasattr(found, "run") or hasattr(found, "alone")):
        raise WrongUsage("", "which command? see `rbdgate --help`, or `rbdgate COMMAND --help`")
    check = getattr(found, "check", None)
    wrong = check(found) if check else None
    if wrong is not None:
        raise WrongUsage("", wrong)
