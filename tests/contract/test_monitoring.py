"""Rules and dashboards in a real Prometheus, which scrapes agents that are made up from the reference."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest
import yaml

from gateway.actions.monitoring import rules
from tests.contract.exposition import PORT, Agent, serving
from tests.lab.dashboards import panel_queries, unanswered
from tests.lab.prometheus import Job, Prometheus, Scraping
from tests.lab_product.waiting import NotInTime, until

RULES = rules(runbook_base="https://runbook.test/rbdgate", scale=0.05)


@dataclass(frozen=True)
class Site:
    """A Prometheus and the two agents it scrapes."""

    prometheus: Prometheus
    agents: tuple[Agent, Agent]
    instances: tuple[str, str]

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {alert.labels["alertname"] for alert in self.prometheus.firing()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One Prometheus for all tests here, on loopback addresses that no other run on this machine uses."""
    directory = tmp_path_factory.mktemp("prometheus")
    network = f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    (directory / "rbdgate.rules.yml").write_text(RULES)
    well: dict[str, float] = {"rbdgate_krbd_requests_given_up": 0, "rbdgate_node_obstacle": 0}
    agents = Agent("gw1", dict(well)), Agent("gw2", well | {"rbdgate_path_serving": 0})
    instances = f"{network}.11:{PORT}", f"{network}.12:{PORT}"
    prometheus = Prometheus(directory, f"{network}.10")
    jobs = Job("rbdgate", instances), Job("prometheus", (f"{network}.10:9090",))
    with ExitStack() as stack:
        for agent, instance in zip(agents, instances, strict=True):
            stack.enter_context(serving(agent, instance.partition(":")[0]))
        stack.callback(prometheus.stop)
        prometheus.start(Scraping(jobs, (directory / "rbdgate.rules.yml",)))
        yield Site(prometheus, agents, instances)


def test_what_the_reference_describes_is_clean() -> None:
    """promtool's linter has nothing to say of names, types and units."""
    ours = "".join(f"{line}\n" for line in Agent("gw1").text().splitlines() if "rbdgate_" in line)
    done = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_panels_query_returns_data(site: Site) -> None:
    """Each parses and has at least one series, once two scrapes were taken."""
    chosen = {"job": "rbdgate", "node": "gw1", "instance": site.instances[0], "image": "rbd/d1"}
    left = panel_queries(chosen, "30s")
    assert len(left) > 70

    def all_answered() -> bool:
        left[:] = unanswered(site.prometheus, left)
        return not left

    with suppress(NotInTime):  # what is left says more
        until("every query was answered with data", all_answered, within=60)
    assert [str(query) for query in left] == []


def test_every_rule_is_loaded_and_evaluated(site: Site) -> None:
    """Prometheus counts each of them, and no evaluation that failed."""
    wanted = sum(len(group["rules"]) for group in yaml.safe_load(RULES)["groups"])
    rounds = "min(prometheus_rule_group_iterations_total) > 2"
    until("every group was evaluated", lambda: site.prometheus.query(rounds), within=60)
    assert [each.value for each in site.prometheus.query("sum(prometheus_rule_group_rules)")] == [wanted]
    assert [each.value for each in site.prometheus.query("sum(prometheus_rule_evaluation_failures_total)")] == [0]


def test_an_alert_fires_and_clears(site: Site) -> None:
    """Both agents say that a gateway is not live, and later that it is: RbdgateNodeDown begins and ends."""
    until("agents are seen", lambda: site.prometheus.query("rbdgate_cluster_node_live == 1"), within=60)
    assert "RbdgateNodeDown" not in site.firing()
    for agent in site.agents:
        agent.gauges["rbdgate_cluster_node_live"] = 0
    until("RbdgateNodeDown fires", lambda: "RbdgateNodeDown" in site.firing(), within=60)
    for agent in site.agents:
        agent.gauges["rbdgate_cluster_node_live"] = 1
    until("RbdgateNodeDown is over", lambda: "RbdgateNodeDown" not in site.firing(), within=60)
