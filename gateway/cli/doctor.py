"""`rbdgate doctor`: what may be wrong with this gateway, and what to do."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.parsers import Parser, furnish_alone
from gateway.cli.session import Answer
from gateway.doctor.finding import NAMES, Severity

if TYPE_CHECKING:
    from gateway.doctor.examination import Examination

DESCRIPTION = """What may be wrong with this gateway, and what to do about each finding, the worst first.

It looks and changes nothing, as root on a gateway, also when etcd or Ceph is down and before `cluster init`; it says
what it could not look at. Exit status 1 if anything is an error."""


def add(parser: Parser) -> None:
    """The command, which is a group of its own."""
    parser.description = DESCRIPTION
    furnish_alone(parser, _doctor, "what may be wrong with this gateway")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=NAMES,
        metavar="SUBJECT",
        help=f"look at this alone; may be given again: {', '.join(NAMES)}",
    )


def _doctor(arguments: argparse.Namespace) -> Answer:
    from gateway.doctor.examination import examine  # noqa: PLC0415 - it imports every room there is
    from gateway.doctor.sources import Sources  # noqa: PLC0415
    from gateway.settings import DEFAULT_PATH, VARIABLE  # noqa: PLC0415

    path = arguments.settings or Path(os.environ.get(VARIABLE) or DEFAULT_PATH)
    found = examine(Sources(path), arguments.only)
    status = 1 if found.count(Severity.ERROR) else 0
    if found.hung:
        atexit.register(_leave, status)
    return Answer(text(found), document(found), status)


def text(found: Examination) -> str:
    """One line a finding, the worst first, what to do under it, and a sum."""
    width = max((len(finding.subject) for finding in found.findings), default=0)
    lines = []
    for finding in found.findings:
        head = f"{finding.severity.value.upper().ljust(7)}  {finding.subject.ljust(width)}  "
        lines.append(head + finding.text)
        if finding.what_to_do:
            lines.append(" " * len(head) + f"-> {finding.what_to_do}")
    errors, warnings, good = (found.count(severity) for severity in (Severity.ERROR, Severity.WARNING, Severity.OK))
    return "\n".join([*lines, "", f"{errors} errors, {warnings} warnings, {good} good"])


def document(found: Examination) -> dict[str, object]:
    """The same for scripts."""
    return {
        "errors": found.count(Severity.ERROR),
        "warnings": found.count(Severity.WARNING),
        "findings": [finding.as_dict() for finding in found.findings],
    }


def _leave(status: int) -> None:
    """End at once: what hangs in librados or in the kernel would hold up an orderly end."""
    sys.stdout.flush()
    os._exit(status)
