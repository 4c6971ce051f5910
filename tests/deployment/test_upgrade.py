"""From the previous version to this one, node by node, under a writer, and with a host that goes down on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment import operator
from tests.deployment.controller import Incident, Play
from tests.deployment.operator import GATEWAYS, PLAYED_WITHIN, Disk, image, live, sessions, told, wait_served, writer
from tests.deployment.stage import Site, previous
from tests.lab.layout import ETCD_ADDRESSES
from tests.lab_product.waiting import until

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

PREVIOUS, NEXT, LAST = "0.0.1", "0.1.1.dev1", "0.1.1.dev2"
DYING = "gw2"
SECOND = 2  # each node's turn prints a play's or a task's name once


@pytest.fixture(scope="module")
def disk(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A cluster of the previous version, on an etcd that was there before and speaks no TLS.

    Its hosts may have had another cluster, which was uninstalled.
    """
    operator.leave_nothing(site)
    source: Path = previous(tmp_path_factory.mktemp("previous") / "source")
    site.offer(PREVIOUS, source)
    site.offer(LAST)
    site.furnish(
        gateway_version=PREVIOUS,
        gateway_etcd_endpoints=[f"http://{address}:2379" for address in ETCD_ADDRESSES],
        gateway_etcd_tls=False,
        gateway_etcd_password="",
    )
    play = site.controller.play("site", "--limit", "gateways", within=PLAYED_WITHIN)
    assert play.status == 0, told(play)
    return operator.log_in(site, operator.create(site))


def versions(site: Site) -> list[str]:
    """What each gateway's agent says that it runs, in the gateways' order."""
    nodes = {node["name"]: node["version"] for node in site.rbdgate("node", "list")}
    return [nodes[gateway] for gateway in GATEWAYS]


def test_site_leaves_another_version_alone(site: Site, disk: Disk) -> None:
    """A changed version is not installed everywhere at once: `site.yml` refuses and names the playbook."""
    play = site.controller.play("site", "--limit", "gateways", within=PLAYED_WITHIN, gateway_version=NEXT)
    assert play.status != 0
    assert "run the playbook rbdgate.gateways.upgrade" in play.output.replace("\n", " ")
    assert versions(site) == [PREVIOUS] * 3


def test_an_upgrade_touches_no_session(site: Site, disk: Disk) -> None:
    """Under the writer every gateway gets the new version, one at a time, and no initiator notices.

    Its wheel lies with whoever runs the playbook, as README has it.
    """
    before, wheel = sessions(site), str(site.offer(NEXT))
    with writer(site, disk):
        play = site.controller.play("upgrade", within=PLAYED_WITHIN * 2, gateway_version=NEXT, gateway_wheel=wheel)
        assert play.status == 0, told(play)
    assert versions(site) == [NEXT] * 3
    assert sessions(site) == before


def test_an_upgrade_stops_at_a_host_that_is_down(site: Site, disk: Disk) -> None:
    """A host that goes down before its turn or in it stops the playbook, which says where; it can be run again."""
    if image(site)["holder"] == DYING:
        site.rbdgate("image", "move", operator.IMAGE, "--to", GATEWAYS[0])
    with writer(site, disk):
        before = upgrade(site, LAST, dying_at="PLAY [Upgrade the gateways")
        amid = upgrade(site, LAST, dying_at="TASK [rbdgate.gateways.gateway : Install the version into it]")
    assert f"The upgrade stops at {DYING}. Upgraded before it: gw1. Left as they were: gw3." in before.output
    assert f"fatal: [{DYING}]: UNREACHABLE!" in amid.output
    stops = f"The upgrade stops at {DYING}, which went down in its turn. Done before it: gw1. Left as they were: gw3."
    assert stops in amid.output
    assert "The turn of gw3" not in amid.output
    play = site.controller.play("upgrade", within=PLAYED_WITHIN * 2, gateway_version=LAST)
    assert play.status == 0, told(play)
    assert versions(site) == [LAST] * 3
    assert wait_served(site)["state"] == "serving"


def test_the_way_back_needs_nothing_of_the_version_that_does_not_run(site: Site, disk: Disk) -> None:
    """A gateway whose commands and agent do not start any more gets the version before, by itself."""
    packages = site.lab.exec(DYING, "sh", "-c", f"ls -d /opt/rbdgate/{LAST}/lib/python3*/site-packages").stdout.strip()
    site.lab.exec(DYING, "mv", f"{packages}/gateway", f"{packages}/gone")
    site.lab.exec(DYING, "systemctl", "restart", "--no-block", "rbdgate-agent.service")
    assert site.lab.exec(DYING, "rbdgate", "status", check=False).returncode != 0
    play = site.controller.play("upgrade", "--limit", DYING, within=PLAYED_WITHIN, gateway_version=NEXT)
    assert play.status == 0, told(play)
    assert versions(site) == [LAST, NEXT, LAST]
    assert wait_served(site)["state"] == "serving"


def upgrade(site: Site, version: str, dying_at: str) -> Play:
    """Upgrade, with DYING losing its power at that line of its turn; afterwards it runs again, as it was."""
    crash = Incident(dying_at, SECOND, lambda: site.lab.crash(DYING))
    play = site.controller.play("upgrade", within=PLAYED_WITHIN * 2, at=crash, gateway_version=version)
    assert play.status != 0, told(play)
    site.lab.boot(DYING)
    until(f"{DYING} is live again", lambda: DYING in live(site), within=120)
    assert versions(site) == [version, NEXT, NEXT]
    return play
