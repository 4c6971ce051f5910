"""`rbdgate monitoring`: what it prints and writes, with no cluster and no settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.actions.monitoring import dashboards, own_runbook
from tests.fakes.operation import operation
from tests.unit.test_cli import Terminal


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    """A cluster that nobody can ask."""
    made = operation()
    made.etcd.down = True
    return Terminal(made, capsys)


def test_rules_carry_the_address_of_the_sites_runbook(terminal: Terminal) -> None:
    """Each runbook_url begins with the base that was named; without one it is this node's file, which is there."""
    assert terminal.run("monitoring rules --runbook-base https://wiki.test/rbdgate") == 0
    assert 'runbook_url: "https://wiki.test/rbdgate#rbdgatenodedown"' in terminal.out
    assert "RUNBOOK.md" not in terminal.out.partition("groups:")[2]
    here = own_runbook()
    assert f'"{here}#rbdgatenodedown"' in terminal.json("monitoring rules")["rules"]
    assert Path(here.removeprefix("file://")).is_file()


@pytest.mark.parametrize("base", ["wiki", 'https://wiki/"', "https://wiki/{{.}}", "https://wiki/a#b"])
def test_a_base_that_would_break_the_rules_is_refused(terminal: Terminal, base: str) -> None:
    """Quotes, braces, a fragment and what is no URL never reach the file."""
    assert terminal.run(f"monitoring rules --runbook-base {base}") == 1
    assert "no URL that rules can carry" in terminal.error


@pytest.mark.parametrize("factor", ["0", "-1", "fast"])
def test_a_scale_is_a_number_above_0(terminal: Terminal, factor: str) -> None:
    """Anything else is wrong usage."""
    assert terminal.run(f"monitoring rules --scale={factor}") == 2


def test_dashboards_are_written_where_they_are_wanted(terminal: Terminal, tmp_path: Path) -> None:
    """The directory is made, holds every dashboard byte for byte, and the answer names each file."""
    where = tmp_path / "grafana" / "dashboards"
    written = terminal.json(f"monitoring dashboards {where}")["dashboards"]
    assert {Path(path).name: Path(path).read_text() for path in written} == dict(dashboards())
    assert len(written) == 4


def test_a_place_that_cannot_be_written_to_is_told(terminal: Terminal, tmp_path: Path) -> None:
    """A file where the directory should be: the path and the reason, nothing else."""
    (tmp_path / "taken").write_text("")
    assert terminal.run(f"monitoring dashboards {tmp_path / 'taken'}") == 1
    assert f"{tmp_path / 'taken'}: File exists" in terminal.error
