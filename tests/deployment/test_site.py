"""From three fresh hosts to a running cluster, and again without a change: what `site.yml` does over ssh."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.deployment.controller import ROOT, Play
from tests.deployment.operator import GATEWAYS, INITIATOR, PLAYED_WITHIN, VERSION, certificates, daemons, live, told
from tests.deployment.stage import DASHBOARDS, POOL, WATCHER, Site
from tests.lab.making import ceph_of
from tests.lab_product.waiting import until

pytestmark = pytest.mark.site


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_check_mode_tells_what_would_be_done(site: Site) -> None:
    """On fresh hosts check mode ends well, shows files as differences, and installs nothing."""
    foreseen = site.controller.play("site", "--check", "--diff", within=PLAYED_WITHIN)
    assert foreseen.status == 0, told(foreseen)
    assert "+ETCD_CLIENT_CERT_AUTH=true" in foreseen.output
    assert '+node = "gw1"' in foreseen.output
    for gateway in GATEWAYS:
        for installed in ("/opt/rbdgate", "/etc/default/etcd", "/etc/rbdgate"):
            assert site.lab.exec(gateway, "ls", installed, check=False).returncode != 0, installed


@pytest.mark.timeout(1800)
def test_three_fresh_hosts_become_a_cluster(site: Site, first: Play) -> None:
    """After one run every gateway is live, and the doctor finds no error and no warning on any of them.

    But that etcd is slow (what takes milliseconds elsewhere takes a tenth of a second on these nodes) and Debian 12's.
    """
    assert first.status == 0, told(first)
    assert live(site) == set(GATEWAYS)
    for gateway in GATEWAYS:
        found = json.loads(site.lab.exec(gateway, "rbdgate", "doctor", "--json", timeout=120, check=False).stdout)
        wrong = [each for each in found["findings"] if each["severity"] != "ok"]
        excused = "^a read from .* takes |may end all of them at once"
        assert [each for each in wrong if not re.search(excused, each["text"])] == []


@pytest.mark.timeout(1800)
def test_a_second_run_changes_nothing(site: Site, first: Play) -> None:
    """What is as the inventory says is left as it is, on every host."""
    again = site.controller.play("site", within=PLAYED_WITHIN)
    assert again.status == 0, told(again)
    assert set(again.recaps) >= {*GATEWAYS, INITIATOR}, told(again)
    assert again.changed == {}, told(again)


def test_prometheus_asks_every_gateway(site: Site, first: Play) -> None:
    """Where the role `monitoring` put it, each answers it, it judges by our rules, and Grafana has its files."""
    up = 'up{job="rbdgate"} == 1'
    until("every gateway answers Prometheus", lambda: site.asked(up) == len(GATEWAYS), within=60)
    assert site.asked('prometheus_rule_group_rules{rule_group=~".*rbdgate.*"}')
    shipped = {file.name for file in (ROOT / "agent/monitoring/dashboards").glob("*.json")}
    assert shipped <= set(site.lab.exec(WATCHER, "ls", DASHBOARDS).stdout.split())


def test_no_secret_is_told(site: Site, first: Play) -> None:
    """No play's output has the password, CHAP's key or Ceph's, and no file with one of them is for others to read."""
    (key,) = ceph_of(site.lab.places).commands({"prefix": "auth print-key", "entity": "client.rbdgate"})
    for secret in (site.secret("etcd-password"), site.secret("secrets-key"), key.strip()):
        assert [play for play in site.controller.played if secret in play.output] == []
        find = f"grep -rlF --exclude-dir=proc --exclude-dir=sys {secret} /etc /var/lib /opt /run | xargs -r stat -c %a"
        for gateway in GATEWAYS:
            modes = site.lab.exec(gateway, "sh", "-c", find, timeout=120).stdout.split()
            assert set(modes) == {"600"}, find


def test_the_rights_are_the_least(site: Site, first: Play) -> None:
    """The cephx user has exactly the caps that README names, and etcd lets the gateways' user read nothing else."""
    said = ceph_of(site.lab.places).commands({"prefix": "auth get", "entity": "client.rbdgate", "format": "json"})[0]
    assert json.loads(said)[0]["caps"] == {"mon": "profile rbd", "osd": f"profile rbd pool={POOL}"}
    for prefix, allowed in (("/rbdgate/default/", True), ("/rbdgate/default.events/", True), ("/rbdgate/", False)):
        assert (site.etcdctl("get", prefix, "--prefix", "--keys-only").returncode == 0) is allowed, prefix


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("playbook", "variables"),
    [
        ("site", {}),
        ("add_node", {"node": "gw3"}),
        ("remove_node", {"node": "gw3"}),
        ("upgrade", {"gateway_version": VERSION}),
        ("rotate_certificates", {}),
        ("rotate_authority", {}),
        ("uninstall", {"confirm": "uninstall", "with_etcd": True}),
    ],
)
def test_check_mode_leaves_a_running_cluster_as_it_is(
    site: Site, first: Play, playbook: str, variables: dict[str, Any]
) -> None:
    """Every playbook can be foreseen; no process is another one afterwards, no certificate, and no gateway has left."""
    before = daemons(site, "rbdgate-agent", "rbdgate-guard", "etcd"), certificates(site)
    foreseen = site.controller.play(playbook, "--check", "--diff", within=PLAYED_WITHIN, **variables)
    assert foreseen.status == 0, told(foreseen)
    assert (daemons(site, "rbdgate-agent", "rbdgate-guard", "etcd"), certificates(site)) == before
    assert {node["state"] for node in site.rbdgate("node", "list") if node["live"]} == {"active"}
    assert live(site) == set(GATEWAYS)
    if playbook == "site":
        assert foreseen.changed == {}, told(foreseen)
