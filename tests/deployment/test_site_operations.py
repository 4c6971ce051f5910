"""What is done with a running cluster under a writer: log in, rotate certificates, remove and add a node, uninstall."""

from __future__ import annotations

import secrets
from functools import partial

import pytest

from tests.deployment import operator
from tests.deployment.controller import Play
from tests.deployment.operator import (
    GATEWAYS,
    IMAGE,
    PLAYED_WITHIN,
    Disk,
    certificates,
    daemons,
    image,
    live,
    sessions,
    told,
    wait_served,
    writer,
)
from tests.deployment.stage import Site
from tests.lab_product.waiting import until

pytestmark = [pytest.mark.full, pytest.mark.timeout(3000)]

LEAVING = "gw3"
METRICS = 9928


@pytest.fixture(scope="module")
def disk(site: Site, first: Play) -> Disk:
    """A cluster as `site.yml` makes it, and a disk of it on a host that the role `initiator` prepared."""
    assert first.status == 0, told(first)
    return operator.log_in(site, operator.create(site))


def test_a_prepared_initiator_logs_in_with_chap_and_writes(site: Site, disk: Disk) -> None:
    """It has every path, as README recommends, keeps every acknowledged write, and a second run changes nothing."""
    with writer(site, disk):
        again = site.controller.play("site", "--limit", "initiators", within=PLAYED_WITHIN)
    assert (again.status, again.changed) == (0, {}), told(again)
    shown = site.lab.exec(operator.INITIATOR, "multipath", "-ll").stdout
    assert "features='1 queue_if_no_path'" in shown
    assert shown.count("active ready running") == 2


def test_certificates_are_rotated_without_a_touch(site: Site, disk: Disk) -> None:
    """Every member and gateway has a new certificate, agents have taken theirs, no session or process was renewed."""
    units = ("rbdgate-agent", "rbdgate-guard", "etcd")
    before, processes = sessions(site), daemons(site, *units)
    serials = certificates(site)
    with writer(site, disk):
        play = site.controller.play("rotate_certificates", within=PLAYED_WITHIN)
        assert play.status == 0, told(play)
    assert all(new != old for new, old in zip(certificates(site), serials, strict=True))
    assert (sessions(site), daemons(site, *units)) == (before, processes)
    for gateway in GATEWAYS:
        until(f"{gateway} took its certificate", partial(has_taken, site, gateway), within=30)
        assert site.lab.exec(gateway, "rbdgate", "doctor", "--only", "etcd", timeout=120, check=False).returncode == 0


def test_the_authority_is_rotated_without_a_touch(site: Site, disk: Disk) -> None:
    """Everybody trusts the new one alone, agents go on as they were, and no session was renewed."""
    before, agents = sessions(site), daemons(site, "rbdgate-agent", "rbdgate-guard")
    issuer = ("openssl", "x509", "-noout", "-issuer", "-in", "/etc/rbdgate/etcd/client.crt")
    former = site.lab.exec("gw2", *issuer).stdout
    with writer(site, disk):
        play = site.controller.play("rotate_authority", within=PLAYED_WITHIN)
        assert play.status == 0, told(play)
    assert site.lab.exec("gw2", *issuer).stdout != former
    assert (sessions(site), daemons(site, "rbdgate-agent", "rbdgate-guard")) == (before, agents)
    for gateway in GATEWAYS:
        assert site.lab.exec(gateway, "grep", "-c", "BEGIN CERTIFICATE", "/etc/rbdgate/etcd/ca.crt").stdout == "1\n"
        assert site.lab.exec(gateway, "rbdgate", "doctor", "--only", "etcd", timeout=120, check=False).returncode == 0


def test_a_changed_password_and_a_changed_setting_cost_no_session(site: Site, disk: Disk) -> None:
    """`site` for all hosts brings both: agents are restarted, nothing else is. For one host it refuses the password."""
    before, kept = sessions(site), daemons(site, "rbdgate-guard", "etcd")
    agents = daemons(site, "rbdgate-agent")
    password = secrets.token_hex(32)
    site.vary(etcd_password=password, gateway_etcd_password=password, gateway_metrics_port=METRICS)
    limited = site.controller.play("rotate_certificates", "--limit", "gw2", within=PLAYED_WITHIN)
    assert limited.status != 0
    assert "Run site without --limit first" in limited.output.replace("\n", " ")
    with writer(site, disk):
        play = site.controller.play("site", within=PLAYED_WITHIN)
        assert play.status == 0, told(play)
    assert password not in "".join(each.output for each in site.controller.played)
    assert (sessions(site), daemons(site, "rbdgate-guard", "etcd")) == (before, kept)
    assert all(new != old for new, old in zip(daemons(site, "rbdgate-agent"), agents, strict=True))
    for former, taken in ((site.secret("etcd-password"), False), (password, True)):
        login = site.etcdctl("get", "/rbdgate/default/", "--prefix", "--keys-only", password=former)
        assert (login.returncode == 0) is taken, login.stderr
    up = f'up{{job="rbdgate", instance=~".*:{METRICS}"}} == 1'
    until("Prometheus asks at the new port", lambda: site.asked(up) == len(GATEWAYS), within=60)


def test_a_node_is_removed_and_added_again(site: Site, disk: Disk) -> None:
    """It gives its image away first; afterwards nothing of rbdgate is on it, and it can come back."""
    if image(site)["holder"] != LEAVING:
        site.rbdgate("image", "move", IMAGE, "--to", LEAVING)
    with writer(site, disk):
        play = site.controller.play("remove_node", within=PLAYED_WITHIN, node=LEAVING)
        assert play.status == 0, told(play)
    assert wait_served(site)["holder"] != LEAVING
    assert LEAVING not in {node["name"] for node in site.rbdgate("node", "list")}
    assert left_on(site, LEAVING) == ""
    again = site.controller.play("remove_node", within=PLAYED_WITHIN, node=LEAVING)
    assert again.status == 0, told(again)
    with writer(site, disk):
        play = site.controller.play("add_node", within=PLAYED_WITHIN, node=LEAVING)
        assert play.status == 0, told(play)
        site.rbdgate("image", "move", IMAGE, "--to", LEAVING)
    assert wait_served(site)["holder"] == LEAVING


def test_a_dead_node_is_removed_and_can_come_back(site: Site, disk: Disk) -> None:
    """It is fenced and forgotten, its image goes elsewhere with nothing lost; its machine may join again."""
    if image(site)["holder"] != LEAVING:
        site.rbdgate("image", "move", IMAGE, "--to", LEAVING)
    with writer(site, disk):
        site.lab.crash(LEAVING)
        play = site.controller.play("remove_node", within=PLAYED_WITHIN, node=LEAVING, dead=True)
        assert play.status == 0, told(play)
        assert wait_served(site)["holder"] != LEAVING
    assert LEAVING not in {node["name"] for node in site.rbdgate("node", "list")}
    site.lab.boot(LEAVING)
    until(f"{LEAVING} is live again", lambda: LEAVING in live(site), within=120)


def test_uninstall_refuses_while_an_image_is_served_and_then_leaves_nothing(site: Site, disk: Disk) -> None:
    """Nothing happens unless it is confirmed and no image is served; then nothing of rbdgate is on any gateway."""
    for confirm in ("", "uninstall"):
        play = site.controller.play("uninstall", within=PLAYED_WITHIN, confirm=confirm)
        assert play.status != 0
        assert "Nothing was changed" in play.output
    assert wait_served(site)["state"] == "serving"
    site.rbdgate("image", "stop", IMAGE)
    play = site.controller.play("uninstall", within=PLAYED_WITHIN, confirm="uninstall", with_etcd=True)
    assert play.status == 0, told(play)
    for gateway in GATEWAYS:
        assert left_on(site, gateway) == ""
        kept = site.lab.exec(gateway, "sh", "-c", "ls -d /var/lib/etcd/default; ls /sys/bus/rbd/devices; :").stdout
        assert kept == ""
    again = site.controller.play("uninstall", within=PLAYED_WITHIN, confirm="uninstall", with_etcd=True)
    assert again.status == 0, told(again)


def left_on(site: Site, gateway: str) -> str:
    """What of rbdgate's program, units, settings, secrets and file system is on a gateway."""
    places = (
        "/opt/rbdgate /usr/local/bin/rbdgate* /etc/rbdgate/rbdgate.toml /etc/rbdgate/secrets.key /etc/rbdgate/etcd"
        " /etc/ceph/*.keyring /etc/systemd/system/rbdgate-*.service"
    )
    look = f"ls -d {places} 2>/dev/null; findmnt --types=fuse.rbdgate; :"
    return str(site.lab.exec(gateway, "sh", "-c", look).stdout)


def has_taken(site: Site, gateway: str) -> bool:
    """Whether the agent has said that it took a renewed certificate."""
    said = site.lab.exec(gateway, "journalctl", "-u", "rbdgate-agent", "--no-pager", "--output=cat").stdout
    return "etcd certificate renewed" in said
