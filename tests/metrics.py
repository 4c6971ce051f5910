"""The figures that the reference in `agent/monitoring/README.md` promises, and those that a text names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REFERENCE = Path(__file__).parents[1] / "agent/monitoring/README.md"

_ROW = re.compile(r"^\| `(rbdgate_\w+)` \| (gauge|counter|histogram) \| ([^|]*)\|", re.MULTILINE)


@dataclass(frozen=True)
class Figure:
    """One row of the reference: a metric's name, type, and labels beside those of its target."""

    name: str
    type: str
    labels: tuple[str, ...]


def figures() -> list[Figure]:
    """Every row of the reference."""
    rows = _ROW.findall(REFERENCE.read_text())
    return [Figure(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows]


def known_figures() -> set[str]:
    """The names of all series there are: a histogram has three."""
    names = set()
    for figure in figures():
        parts = ("_bucket", "_count", "_sum") if figure.type == "histogram" else ("",)
        names |= {figure.name + part for part in parts}
    return names


def named_figures(text: str) -> set[str]:
    """The figures of ours that an expression or a text names."""
    return set(re.findall(r"\brbdgate_[a-z_]+[a-z]\b", text))
