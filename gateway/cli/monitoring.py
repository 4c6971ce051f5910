"""`rbdgate monitoring`: the alerting rules and dashboards of this version, for a Prometheus and a Grafana elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.cli.completing import files
from gateway.cli.parsers import Commands, furnish_alone, typed
from gateway.cli.session import Answer
from gateway.cli.values import parse_factor

_RULES = """Prints the alerting rules for Prometheus. Write them to a file that rule_files of prometheus.yml names.

    rbdgate monitoring rules --runbook-base https://wiki.example.com/rbdgate > /etc/prometheus/rbdgate.rules.yml"""


def add(commands: Commands) -> None:
    """The group's commands."""
    purpose = "print Prometheus' alerting rules"
    rules = commands.add_parser("rules", help=purpose, description=_RULES)
    furnish_alone(rules, _rules, purpose)
    base = "where the runbook is: what `#` and an alert's name are put behind; default: its file on this node"
    rules.add_argument("--runbook-base", metavar="URL", default="", help=base)
    scale = "multiply every `for` and every range by this, as a slower scrape asks for; default: 1"
    rules.add_argument("--scale", type=typed(parse_factor), metavar="FACTOR", default=1.0, help=scale)
    purpose = "write Grafana's dashboards into a directory"
    boards = commands.add_parser("dashboards", help=purpose)
    furnish_alone(boards, _dashboards, purpose)
    directory = boards.add_argument("directory", type=Path, metavar="DIRECTORY", help="made if it is not there")
    directory.completer = files  # type: ignore[attr-defined] # where argcomplete looks for it


def _rules(arguments: argparse.Namespace) -> Answer:
    from gateway.actions.monitoring import rules  # noqa: PLC0415 - help need not wait for it

    text = rules(runbook_base=arguments.runbook_base, scale=arguments.scale)
    return Answer(text.rstrip("\n"), {"rules": text})


def _dashboards(arguments: argparse.Namespace) -> Answer:
    from gateway.actions.monitoring import write_dashboards  # noqa: PLC0415

    written = [str(path) for path in write_dashboards(arguments.directory)]
    return Answer("\n".join(f"wrote {path}" for path in written), {"dashboards": written})
