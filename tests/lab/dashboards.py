"""Every query that Grafana would send for our dashboards, as it would send it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.actions.monitoring import dashboards
from tests.lab.prometheus import Prometheus

UNREPLACED = re.compile(r"\$\{?\w+")


@dataclass(frozen=True)
class PanelQuery:
    """One query of one panel, with its variables replaced."""

    dashboard: str
    panel: str
    expr: str

    def __str__(self) -> str:
        """Where it is, for a failure's message."""
        return f"{self.dashboard}: {self.panel}: {self.expr}"


def panel_queries(variables: Mapping[str, str], window: str) -> list[PanelQuery]:
    """The queries of every panel with `variables` (`job`, `node`, `instance`, `image`) put in.

    `window` is both the rate interval and the time shown, as `30s`. ValueError if a variable is not given.
    """
    values = {**variables, "__rate_interval": window, "__range": window}
    found = []
    for name, text in dashboards().items():
        for panel in json.loads(text)["panels"]:
            for target in panel.get("targets", ()):
                found.append(PanelQuery(name, panel["title"], _put_in(target["expr"], values)))
    return found


def unanswered(prometheus: Prometheus, queries: Iterable[PanelQuery]) -> list[PanelQuery]:
    """Which of these Prometheus has no data for now; RuntimeError if it does not understand one."""
    return [query for query in queries if not prometheus.query(query.expr)]


def _put_in(expr: str, values: Mapping[str, str]) -> str:
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${name}", values[name])
    if left := UNREPLACED.search(expr):
        raise ValueError(f"no value for {left[0]} in {expr}")
    return expr
