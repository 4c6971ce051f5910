"""The alerts: each fires when it should and not otherwise, and a tired person finds its section of the runbook."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.actions.monitoring import rules
from tests.metrics import known_figures, named_figures

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("alerts.yml")
RUNBOOK = ROOT / "agent/monitoring/RUNBOOK.md"
BASE = "https://runbook.test/rbdgate"

ALERTS: Mapping[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(rules(runbook_base=BASE))["groups"] for rule in group["rules"]
}
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL))


def read_cases() -> list[tuple[str, str, dict[str, Any]]]:
    """Each case: its alert, `fires` or `is silent`, and what promtool is given."""
    found = []
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        match = re.match(r"(\w+) (fires|is silent): .", case["name"])
        assert match, case["name"]
        found.append((match[1], match[2], case))
    return found


EVERY_CASE = read_cases()


def test_every_case_is_as_its_name_says(tmp_path: Path) -> None:
    """promtool evaluates the rules on the series of every case and finds the alerts that fire, and no others."""
    (tmp_path / "rbdgate.rules.yml").write_text(rules(runbook_base=BASE))
    (tmp_path / CASES.name).write_text(CASES.read_text())
    for words in (("check", "rules", "--lint-fatal", "rbdgate.rules.yml"), ("test", "rules", CASES.name)):
        done = subprocess.run(
            ["promtool", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """No alert is without both, no case without its alert, and what a case asks is what its name says."""
    seen = {(alert, verb) for alert, verb, _ in EVERY_CASE}
    assert seen == {(alert, verb) for alert in ALERTS for verb in ("fires", "is silent")}
    for alert, verb, case in EVERY_CASE:
        for asked in case["promql_expr_test"]:
            assert f'alertname="{alert}"' in asked["expr"]
            assert bool(asked["exp_samples"]) is (verb == "fires"), case["name"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: str) -> None:
    """Severity, summary, description and the URL of its own section."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{BASE}#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_the_labels_that_its_texts_name(alert: str) -> None:
    """What fires in its cases has every label that summary and description put in."""
    named = set(re.findall(r"\$labels\.(\w+)", str(ALERTS[alert]["annotations"])))
    for found, verb, case in EVERY_CASE:
        if (found, verb) == (alert, "fires"):
            labels = re.findall(r'(\w+)="', case["promql_expr_test"][0]["exp_samples"][0]["labels"])
            assert named <= set(labels)


def test_the_runbook_has_the_alerts_and_no_others() -> None:
    """One section each, in the order of the rules."""
    assert list(SECTIONS) == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_says_what_it_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    """All three, in this order, and in so few words that they are read."""
    section = SECTIONS[alert]
    assert re.findall(r"^\*\*(.*?)\*\*", section, re.MULTILINE) == ["It means", "Look at", "Do"]
    assert len(section.split()) < 220


def test_alerts_and_runbook_use_figures_that_there_are() -> None:
    """Every figure they name stands in the reference with all that is scraped."""
    named = set().union(*(named_figures(rule["expr"]) for rule in ALERTS.values())) | named_figures(RUNBOOK.read_text())
    assert named <= known_figures(), sorted(named - known_figures())


def test_times_are_stretched_and_a_range_never_holds_too_few_scrapes() -> None:
    """A scale multiplies each `for`, each range and each offset, to one second and ten seconds at least."""
    slow, fast = yaml.safe_load(rules(scale=4)), yaml.safe_load(rules(scale=0.01))
    assert _times(slow, "RbdgateNodeDown") == (["2m"], [])
    assert _times(slow, "RbdgateDriftComesBack") == (["2m"], ["240m"])
    assert _times(fast, "RbdgateNodeDown") == (["1s"], [])
    assert _times(fast, "RbdgateNodeSetAside") == (["36s"], [])
    assert _times(fast, "RbdgateFenceFailing") == ([], ["10s"])


def _times(document: dict[str, Any], alert: str) -> tuple[list[str], list[str]]:
    rule = next(each for group in document["groups"] for each in group["rules"] if each.get("alert") == alert)
    return [rule["for"]] if "for" in rule else [], re.findall(r"(?:\[|offset )([0-9]+[smhd])", rule["expr"])
