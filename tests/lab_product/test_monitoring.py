"""What operators are told of faults: the shipped alerts in a real Prometheus that scrapes the lab, health, logs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from gateway.actions.monitoring import rules
from gateway.phases import Phase
from tests.lab.cluster import Lab
from tests.lab.dashboards import PanelQuery, panel_queries, unanswered
from tests.lab.prometheus import Job, Prometheus, Scraping
from tests.lab_product.scene import Disk, Scene
from tests.lab_product.test_storage_loss import give_back_ceph, lose_ceph
from tests.lab_product.waiting import NotInTime, until
from tests.lab_product.writing import Writing

PORT = 9927
HOST = "10.77.0.1"  # the lab's own address in the network that the gateways are scraped through
SCALE = 0.1  # of the rules' times: thirty seconds become three
REMINDER = "RbdgateNodeSetAside"  # after an hour: here after seconds
RAISED = 60.0  # seconds until an alert fires: a lease, a few scrapes and its `for`
CLEARED = 120.0  # seconds until none does: the ranges of some are a minute then, and nodes boot in half of that
ANSWERED = 1.0  # seconds: what a scrape may take, and Prometheus' bound of it here
FETCH = "import sys, urllib.error, urllib.request as r\ntry: a = r.urlopen(sys.argv[1], timeout=10)\n"
FETCH += "except urllib.error.HTTPError as e: a = e\nprint(a.status, a.read().decode())"


@dataclass(frozen=True)
class Watch:
    """A Prometheus that has scraped every gateway, and what is left of the dashboards' queries to be answered."""

    lab: Lab
    prometheus: Prometheus
    instances: Mapping[str, str]
    queries: list[PanelQuery]

    def firing(self) -> set[tuple[str, str]]:
        """The alerts that fire now, each with the node that it names; a few more panels are asked for data, in turn."""
        self.queries[:] = [*self.queries[5:], *unanswered(self.prometheus, self.queries[:5])]
        return {(alert.labels["alertname"], alert.labels.get("node", "")) for alert in self.prometheus.firing()}

    def wait_firing(self, *wanted: tuple[str, str]) -> None:
        """Return when all of these fire at once."""
        until(f"{wanted} fire", lambda: set(wanted) <= self.firing(), within=RAISED)

    def wait_clear(self) -> None:
        """Return when no alert fires."""
        seen: set[tuple[str, str]] = set()

        def quiet() -> bool:
            seen.clear()
            seen.update(self.firing())
            return not seen

        try:
            until("no alert fires", quiet, within=CLEARED)
        except NotInTime as late:
            raise AssertionError(f"still firing: {sorted(seen)}") from late

    def count(self, name: str, node: str, **labels: str) -> float:
        """A figure of a node now, 0 if it has none such."""
        chosen = ",".join(f'{key}="{value}"' for key, value in {"instance": self.instances[node], **labels}.items())
        return sum(each.value for each in self.prometheus.query(f"{name}{{{chosen}}}"))

    def health(self, node: str, page: str) -> tuple[int, str]:
        """The status and the text of a page of the node's agent."""
        words = [*self.lab.wires.enter, sys.executable, "-c", FETCH, f"http://{self.instances[node]}{page}"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
        status, _, text = said.partition(" ")
        return int(status), text


@pytest.fixture(scope="module")
def watch(scene: Scene, disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """It scrapes each second, with the rules' times shortened."""
    directory = tmp_path_factory.mktemp("prometheus")
    document = yaml.safe_load(rules(runbook_base="https://runbook.test/rbdgate", scale=SCALE))
    for rule in (rule for group in document["groups"] for rule in group["rules"] if rule["alert"] == REMINDER):
        rule["for"] = "5s"
    (directory / "rbdgate.rules.yml").write_text(yaml.safe_dump(document))
    instances = {node: f"{scene.lab.node(node).link('mgmt').v4}:{PORT}" for node in scene.gateways}
    prometheus = Prometheus(directory, HOST, netns=scene.lab.places.netns)
    chosen = {"job": "rbdgate", "node": "gw1", "instance": instances["gw1"], "image": disk.image}
    watch = Watch(scene.lab, prometheus, instances, panel_queries(chosen, "1m"))
    prometheus.start(Scraping((Job("rbdgate", tuple(instances.values())),), (directory / "rbdgate.rules.yml",)))
    try:
        until("every gateway is scraped", lambda: len(prometheus.query("up == 1")) == len(instances), within=60)
        yield watch
    finally:
        prometheus.stop()


def takeovers(watch: Watch, node: str, kind: str) -> list[float]:
    """How often a node took an image over like that, and how many times each phase of that was measured."""
    counts = [watch.count("rbdgate_takeover_duration_seconds_count", node, kind=kind)]
    return counts + [
        watch.count("rbdgate_takeover_phase_duration_seconds_count", node, kind=kind, phase=phase.value)
        for phase in Phase
    ]


def test_a_crash(scene: Scene, disk: Disk, write: Writing, watch: Watch) -> None:
    """The node is down, for alerts and for the status; the takeover is counted with each of its phases; a scrape of the
    others, and of the one that takes over, comes within a second all the time."""
    watch.wait_clear()
    holder = scene.holder(disk.image)
    others = scene.others(holder)
    scene.front = others[0]
    before = {node: takeovers(watch, node, "takeover") for node in others}
    scene.lab.crash(holder)
    watch.wait_firing(("RbdgateNodeDown", holder), ("RbdgateAgentNotScraped", holder))
    assert not {name for name, node in watch.firing() if node in others}
    first, second = scene.run(scene.front, "rbdgate", "status").splitlines()[:2]
    assert "the worst first" in first
    assert holder in second
    taker = scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    counted = [count + 1 for count in before[taker]]
    until("the takeover is counted", lambda: takeovers(watch, taker, "takeover") == counted, within=30)
    for node in others:
        scraped = f'{{instance="{watch.instances[node]}"}}[1m]'
        (longest,) = watch.prometheus.query(f"max_over_time(scrape_duration_seconds{scraped})")
        (always,) = watch.prometheus.query(f"min_over_time(up{scraped})")
        assert (always.value, longest.value < ANSWERED) == (1, True), (node, longest.value)
    scene.lab.boot(holder)
    scene.wait_live(holder)
    watch.wait_clear()
    write.stop()


@pytest.mark.full
def test_a_drain(scene: Scene, disk: Disk, write: Writing, watch: Watch) -> None:
    """Whoever forgets to resume a node is reminded; no gateway is down, the move is counted, and its two nodes' logs
    and the events have one trace."""
    watch.wait_clear()
    holder = scene.holder(disk.image)
    scene.front = scene.others(holder)[0]
    before = {node: takeovers(watch, node, "move") for node in scene.others(holder)}
    scene.rbdgate("node", "drain", holder)
    taker = scene.wait_taken_over(disk.image, holder)
    counted = [count + 1 for count in before[taker]]
    until("the move is counted", lambda: takeovers(watch, taker, "move") == counted, within=30)
    watch.wait_firing((REMINDER, holder))
    assert "RbdgateNodeDown" not in {name for name, _ in watch.firing()}
    scene.rbdgate("node", "resume", holder)
    watch.wait_clear()
    traces = [event["trace"] for event in scene.rbdgate("events", "--image", disk.image) if event.get("trace")]
    for node in (holder, taker):
        log = scene.run(node, "journalctl", "--unit=rbdgate-agent", "--output=cat", f"--grep=trace={traces[-1]}")
        assert re.search(rf"image={disk.image}\b.* trace={traces[-1]}\b", log), node
    write.wait_acknowledged()
    write.stop()


@pytest.mark.full
def test_a_partition(scene: Scene, disk: Disk, write: Writing, watch: Watch) -> None:
    """A gateway that is cut from everything is down for the others and not scraped; no path has two holders."""
    watch.wait_clear()
    holder = scene.holder(disk.image)
    scene.front = scene.others(holder)[0]
    scene.lab.cut(holder, "all")
    watch.wait_firing(("RbdgateNodeDown", holder), ("RbdgateAgentNotScraped", holder))
    scene.wait_taken_over(disk.image, holder)
    write.wait_acknowledged()
    scene.lab.heal(holder)
    scene.wait_live(holder)
    watch.wait_clear()
    assert watch.prometheus.query('max_over_time(ALERTS{alertname="RbdgateTwoHolders",alertstate="firing"}[5m])') == []
    write.stop()


def test_ceph_stands_still(scene: Scene, disk: Disk, write: Writing, watch: Watch) -> None:
    """Each gateway says that Ceph does not answer it and that it is not ready; none counts as down."""
    watch.wait_clear()
    lose_ceph(scene)
    watch.wait_firing(*(("RbdgateStorageUnreachable", node) for node in scene.gateways))
    assert "RbdgateNodeDown" not in {name for name, _ in watch.firing()}
    for node in scene.gateways:
        status, text = watch.health(node, "/readyz")
        assert (status, set(_wrong(text))) == (503, {"storage"}), text
        assert watch.health(node, "/healthz")[0] == 200
    give_back_ceph(scene)
    watch.wait_clear()
    write.wait_acknowledged()
    write.stop()


@pytest.mark.full
def test_a_guard_that_does_not_run(scene: Scene, disk: Disk, watch: Watch) -> None:
    """Its gateway is not ready and an alert says so, though it serves nothing; both end when it is back."""
    watch.wait_clear()
    node = scene.others(scene.holder(disk.image))[0]
    scene.run(node, "systemctl", "stop", "rbdgate-guard")
    try:
        watch.wait_firing(("RbdgateGuardNotRunning", node))
        status, text = watch.health(node, "/readyz")
        assert (status, set(_wrong(text))) == (503, {"guard"}), text
    finally:
        scene.run(node, "systemctl", "start", "rbdgate-guard")
    watch.wait_clear()
    assert watch.health(node, "/readyz")[0] == 200


def test_what_the_journal_calls_warnings(scene: Scene, watch: Watch) -> None:
    """`journalctl -p warning` of the agents has lines, all of them ours and none of them a mere notice."""
    lines = []
    for node in scene.gateways:
        words = ("journalctl", "--unit=rbdgate-agent", "--priority=warning", "--output=cat")
        lines += scene.run(node, *words, "SYSLOG_IDENTIFIER=rbdgate-agent", check=False).splitlines()
    assert lines
    assert not [line for line in lines if not re.match(r"level=(warning|error|critical) ", line)]


def test_every_panel_has_data(scene: Scene, disk: Disk, write: Writing, watch: Watch) -> None:
    """Each query of each dashboard is answered with data, now or while all this went on: those of the panels of one
    gateway and of one image are about `gw1` and an image that it has just taken up."""
    if scene.holder(disk.image) == "gw1":
        scene.move(disk.image, "gw2")
    scene.move(disk.image, "gw1")

    def left() -> list[str]:
        watch.queries[:] = unanswered(watch.prometheus, watch.queries)
        return [str(query) for query in watch.queries]

    until("every panel has data", lambda: not left(), within=60)
    write.stop()


def _wrong(text: str) -> Mapping[str, Any]:
    wrong: Mapping[str, Any] = json.loads(text)["wrong"]
    return wrong
