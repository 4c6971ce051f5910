"""The dashboards that are shipped are what the code makes, and ask for nothing that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from agent.monitoring.building import texts
from gateway.actions.monitoring import dashboards
from tests.lab.dashboards import panel_queries
from tests.metrics import known_figures, named_figures

BOARDS = {name: json.loads(text) for name, text in dashboards().items()}
CHOSEN = {"job": "rbdgate", "node": "gw1", "instance": "gw1:9927", "image": "rbd/d1"}


def test_what_is_shipped_is_what_the_code_makes() -> None:
    """`python -m agent.monitoring.building` would change no file, make none and leave none over."""
    assert dict(dashboards()) == dict(texts())


def test_queries_use_figures_that_there_are() -> None:
    """Every figure in a panel or a variable stands in the reference."""
    named = set().union(*(named_figures(query.expr) for query in panel_queries(CHOSEN, "1m")))
    named |= set().union(*(named_figures(str(variable["query"])) for name in BOARDS for variable in variables(name)))
    assert named <= known_figures(), sorted(named - known_figures())


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_asks_for_the_data_source_and_the_job_first(name: str) -> None:
    """Then for what it shows; every variable that a query uses is asked for, and every one asked for is used."""
    asked = [variable["name"] for variable in variables(name)]
    assert asked[:2] == ["datasource", "job"]
    text = json.dumps(BOARDS[name])
    for variable in asked:
        assert re.search(rf"\$\{{?{variable}\b", text), variable
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used <= set(asked)


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_asks_the_chosen_data_source_for_the_chosen_cluster(name: str) -> None:
    """Panel and query name the variable, and every figure of ours is taken of one job only."""
    for panel in panels(name):
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            for figure in re.finditer(r"\b(?:rbdgate|process)_\w+(.{0,13})", target["expr"]):
                assert figure[1].startswith('{job="$job"'), target["expr"]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    """No cell of Grafana's grid belongs to two panels, and none is outside its 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def variables(name: str) -> list[dict[str, Any]]:
    """What a dashboard asks for."""
    found: list[dict[str, Any]] = BOARDS[name]["templating"]["list"]
    return found


def panels(name: str) -> Iterator[dict[str, Any]]:
    """Its panels, without the headings."""
    yield from (panel for panel in BOARDS[name]["panels"] if panel["type"] != "row")
