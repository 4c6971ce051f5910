"""Prometheus' rules and Grafana's dashboards, as a site wants them.

They are package data of the agent (`agent/monitoring/`), files that nobody imports: what is read here are their texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from gateway.errors import BadInput, Refused

RUNBOOK = "RUNBOOK.md"

_URL = r"[a-z][a-z0-9+.-]*:/[^\s\"'\\{}#]*"
"""What a base may be: it stands inside a quoted YAML string that Prometheus takes for a template."""

_DURATION = re.compile(r"(?m)(?P<before>^ +for: |\[|\boffset )(?P<count>[0-9]+)(?P<unit>[smhd])\b")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

SHORTEST_RANGE = 10
"""Seconds: a shorter range of a query would hold too few scrapes, however short the times are to be."""


def rules(*, runbook_base: str = "", scale: float = 1.0) -> str:
    """The alerting rules; each `runbook_url` is the base and the alert's heading in the runbook.

    Without a base it is this node's own copy of the runbook. Every `for` and every range of a query is multiplied by
    `scale`, to whole seconds, a range to `SHORTEST_RANGE` at least. BadInput says what is wrong with either.
    """
    base = runbook_base or own_runbook()
    if re.fullmatch(_URL, base) is None:
        raise BadInput(f"runbook base {base!r} is no URL that rules can carry: write one like https://wiki/rbdgate")
    if scale <= 0:
        raise BadInput(f"scale {scale:g}: use a number above 0")
    text = _data().joinpath("rbdgate.rules.yml").read_text(encoding="utf-8")
    return _DURATION.sub(lambda found: _scaled(found, scale), text).replace(f'"{RUNBOOK}#', f'"{base}#')


def dashboards() -> Mapping[str, str]:
    """Grafana's dashboards as JSON, by file name."""
    found = _data().joinpath("dashboards").iterdir()
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(found, key=lambda each: each.name)}


def write_dashboards(directory: Path) -> list[Path]:
    """Write each dashboard's file into the directory, which is made if need be; Refused if that cannot be done."""
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in dashboards().items():
            (directory / name).write_text(text, encoding="utf-8")
            written.append(directory / name)
    except OSError as error:
        raise Refused(f"{error.filename or directory}: {error.strerror}; name a directory to write to") from None
    return written


def own_runbook() -> str:
    """The URL of this node's copy of the runbook."""
    with as_file(_data().joinpath(RUNBOOK)) as path:
        return path.as_uri()


def _data() -> Traversable:
    return files("agent").joinpath("monitoring")


def _scaled(found: re.Match[str], scale: float) -> str:
    shortest = 1 if "for" in found["before"] else SHORTEST_RANGE
    seconds = max(shortest, round(int(found["count"]) * _SECONDS[found["unit"]] * scale))
    minutes, rest = divmod(seconds, 60)
    return found["before"] + (f"{seconds}s" if rest else f"{minutes}m")
