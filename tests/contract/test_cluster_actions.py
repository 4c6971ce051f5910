"""An operator's acts through the real command line on a real Ceph and a real etcd; only the agents are fakes.

All of it, the agents' share of the work as well, with the least rights that README names: in etcd and in Ceph.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rbd

from gateway.cli.main import main
from gateway.images.cluster import CephConnection
from gateway.images.header import PR_INFO_XATTR
from gateway.images.image import describe_image, header_of
from gateway.images.metadata import SPEC_KEY, read_metadata
from gateway.model import HolderRecord, ImageName, Iqn, Label, LiveNode
from gateway.reservations import pr_info
from gateway.reservations.state import Nexus, Registration, ReservationState
from gateway.schema import read_image
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.store.papers import Papers
from gateway.store.values import Delete
from tests.contract.ceph_under_test import Ceph
from tests.contract.secured import PREFIX, Secured
from tests.fakes.agent import FakeAgent

pytest_plugins = ("tests.contract.ceph_fixtures", "tests.contract.secured_fixtures")

NETWORKS = "--network a=10.0.1.0/24,10.0.1.100-10.0.1.199 --network b=10.0.2.0/24,10.0.2.100-10.0.2.199"


@dataclass
class Desk:
    """A settings file and the command line on it."""

    settings: Path
    capture: pytest.CaptureFixture[str]
    store: ClusterStore
    client: EtcdClient
    agents: list[FakeAgent]
    error: str = ""

    def run(self, line: str) -> tuple[int, Any]:
        """One command with --json: its exit status and its document."""
        status = main([*line.split(), "--settings", str(self.settings), "--json"])
        out, self.error = self.capture.readouterr()
        return status, json.loads(out)

    def done(self, line: str) -> Any:
        """One command that succeeds."""
        status, document = self.run(line)
        assert status == 0, self.error
        return document

    def refused(self, line: str, *, status: int = 1) -> str:
        """One command that is refused, or not reached; the message."""
        ended, document = self.run(line)
        assert ended == status, document
        return str(document["error"]["message"])


@pytest.fixture
def desk(ceph: Ceph, least: Secured, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    """An initialised cluster of its own with two fake agents that take turns all the time."""
    settings = tmp_path / "rbdgate.toml"
    settings.write_text(
        least.settings(f'[ceph]\nconf = "{ceph.cluster.conf}"\nuser = "gw"\nkeyring = "{ceph.keyring}"\n')
    )
    client = EtcdClient(least.endpoints, papers=Papers(least.security))
    desk = Desk(settings, capsys, ClusterStore(client, PREFIX), client, [])
    desk.done(f"cluster init {NETWORKS} --anchor-pool rbd")
    desk.agents.extend(FakeAgent(desk.store, client, f"gw{n}", f"10.9.0.{n}") for n in (1, 2))
    stop = threading.Event()

    def turns() -> None:
        while not stop.wait(0.1):
            for agent in tuple(desk.agents):
                agent.turn()

    thread = threading.Thread(target=turns)
    thread.start()
    yield desk
    stop.set()
    thread.join()
    client.close()


def rbd_image(connection: CephConnection, name: str, features: int, size: int = 1 << 20) -> ImageName:
    """An image made behind our back."""
    image = ImageName.parse(name)
    with connection.pool(image.pool) as ioctx:
        rbd.RBD().create(ioctx, image.name, size, old_format=False, features=features)
    return image


def test_an_image_from_create_to_restore(desk: Desk, connection: CephConnection) -> None:
    """A created image is there with a copy of its spec; deleted, it is in the trash with its data, and comes back."""
    name = ImageName.parse("rbd/actions-1")
    image = desk.done(f"image create {name} --size 4M --paths 2")
    assert (image["state"], image["size"], [p["network"] for p in image["paths"]]) == ("serving", 4 << 20, ["a", "b"])
    facts = describe_image(connection, name)
    desk.done(f"initiator allow {name} iqn.1993-08.org.debian:01:abc")
    copy = read_metadata(header_of(connection, name, facts.image_id), SPEC_KEY)
    assert copy is not None
    assert read_image(copy.encode(), "copy") == desk.store.image(name)[0]
    assert desk.done(f"image move {name}")["holder"] != image["holder"]
    with connection.pool("rbd") as ioctx, rbd.Image(ioctx, name.name) as opened:
        opened.write(b"precious", 0)
    desk.done(f"image delete {name}")
    assert desk.done("image list") == []
    with connection.pool("rbd") as ioctx:
        entry = next(entry for entry in rbd.RBD().trash_list(ioctx) if entry["id"] == facts.image_id)
        rbd.RBD().trash_restore(ioctx, entry["id"], entry["name"])
        with rbd.Image(ioctx, name.name, read_only=True) as opened:
            assert opened.read(0, 8) == b"precious"
    assert "`rbdgate image adopt rbd/actions-1` serves it" in desk.refused(f"image create {name} --size 4M")
    assert desk.done(f"image adopt {name} --path 1=10.0.1.20")["paths"][0]["address"] == "10.0.1.20"
    desk.done(f"image delete {name} --keep")
    assert describe_image(connection, name).image_id == facts.image_id


def test_an_image_that_etcd_lost_is_restored(desk: Desk, connection: CephConnection) -> None:
    """By the copy in it an image gets back all its initiators know; open, or inherited by a clone, it is refused."""
    name, clone = ImageName.parse("rbd/actions-8"), ImageName.parse("rbd/actions-9")
    image = desk.done(f"image create {name} --size 4M --paths 2")
    desk.done(f"initiator allow {name} iqn.1993-08.org.debian:01:abc")
    spec, _ = desk.store.image(name)
    everything = [item.key for item in desk.client.range(desk.store.keys.prefix).items]
    lost = [key for key in everything if str(name) in key or spec.uid in key or "/unique/" in key]
    desk.client.transact([], [Delete(key) for key in lost])
    assert desk.done("image list") == []
    with connection.pool("rbd") as ioctx, rbd.Image(ioctx, name.name) as opened:
        assert f"it is open at {connection.instance}" in desk.refused(f"image restore {name}")
        opened.create_snap("s")
        opened.protect_snap("s")
        rbd.RBD().clone(ioctx, name.name, "s", ioctx, clone.name)
    assert "inherited a copy" in desk.refused(f"image restore {clone}")
    restored = desk.done(f"image restore {name}")
    assert {key: restored[key] for key in ("iqn", "serial", "size")} == {k: image[k] for k in ("iqn", "serial", "size")}
    assert desk.store.image(name)[0] == spec
    assert "is served by this cluster already" in desk.refused(f"image restore {name}")
    desk.done(f"image delete {name} --keep")


def test_what_is_recorded_of_reservations(desk: Desk, connection: CephConnection) -> None:
    """It is read from the image's own header; who is registered is denied on purpose only, and a clear is pending."""
    name, initiator = ImageName.parse("rbd/actions-10"), Iqn("iqn.1993-08.org.debian:01:abc")
    desk.done(f"image create {name} --size 4M")
    desk.done(f"initiator allow {name} {initiator}")
    spec, _ = desk.store.image(name)
    assert desk.done(f"reservation show {name}")["registrations"] == []
    one = Registration(Nexus(initiator, "00023d000001", spec.identity.iqn, 1), 0xABC, since=1767225600)
    text = pr_info.encode(ReservationState(registrations=(one,)))
    with connection.pool("rbd") as ioctx:
        ioctx.set_xattr(f"rbd_header.{spec.image_id}", PR_INFO_XATTR, text)
    (shown,) = desk.done(f"reservation show {name}")["registrations"]
    assert (shown["nexus"], shown["stale"]) == (f"{initiator},i,0x00023d000001,t,0x1", "")
    assert [row["registrations"] for row in desk.done("reservation list")] == [1]
    assert "with key 0xabc" in desk.refused(f"initiator deny {name} {initiator}")
    assert "registered at image" in desk.refused(f"image set {name} --reservations off")
    desk.done(f"initiator deny {name} {initiator} --clear-registration --reason scrapped --no-wait")
    assert "is not allowed" in desk.done(f"reservation show {name}")["registrations"][0]["stale"]
    assert "clear, asked for by" in desk.done(f"reservation clear {name} --reason gone --no-wait")["pending"]
    desk.done(f"image delete {name}")
    assert desk.store.view().amendments == {}


def test_what_cannot_be_adopted(desk: Desk, connection: CephConnection) -> None:
    """Journaling, a watcher and a crooked size are refused by name, and the image is left alone."""
    layering = rbd.RBD_FEATURE_LAYERING
    journal = rbd_image(
        connection, "rbd/actions-2", layering | rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_JOURNALING
    )
    crooked = rbd_image(connection, "rbd/actions-3", layering, size=1000)
    watched = rbd_image(connection, "rbd/actions-4", layering)
    assert "journaling feature" in desk.refused(f"image adopt {journal}")
    assert "1000 bytes is not a positive multiple of 512" in desk.refused(f"image adopt {crooked}")
    with connection.pool("rbd") as ioctx, rbd.Image(ioctx, watched.name):
        assert f"it is open at {connection.instance}" in desk.refused(f"image adopt {watched}")
    assert "does not exist" in desk.refused("image adopt rbd/actions-none")
    for image in (journal, crooked, watched):
        header = header_of(connection, image, describe_image(connection, image).image_id)
        assert read_metadata(header, SPEC_KEY) is None
    assert desk.done("image list") == []


def test_pools_that_cannot_be_used(desk: Desk) -> None:
    """A pool that is not there and one the cephx user may not use are told apart, and nothing is made."""
    assert "there is no pool 'nopool'" in desk.refused("image create nopool/x --size 1M")
    assert "caps of this cephx user" in desk.refused("image create private/x --size 1M")
    assert desk.done("image list") == []


def test_an_open_image_is_not_put_away(desk: Desk, connection: CephConnection) -> None:
    """While somebody has the image open a delete is refused and resumable; afterwards it is finished."""
    desk.done("image create rbd/actions-5 --size 1M")
    with connection.pool("rbd") as ioctx, rbd.Image(ioctx, "actions-5"):
        assert f"is open at {connection.instance}" in desk.refused("image delete rbd/actions-5")
        assert desk.done("image show rbd/actions-5")["state"] == "deleting"
    desk.done("image delete rbd/actions-5")


def test_a_dead_holder_is_fenced_before_its_data_goes(desk: Desk, ceph: Ceph) -> None:
    """A client that died with the image open, its lock held, is fenced; only then is the data in the trash."""
    desk.agents.clear()
    name = ImageName.parse("rbd/actions-6")
    desk.done(f"image create {name} --size 1M --no-wait")
    spec, revision = desk.store.image(name)
    lease, node = desk.client.grant_lease(60).id, Label("gw9")
    with ceph.connect() as victim, victim.pool("rbd") as ioctx:
        desk.store.join(LiveNode(node, lease, "boot", "0.1.0", (), (victim.instance,)))
        token = desk.store.claim(spec, revision, node, lease).token
        desk.store.add_records(spec.uid, token, (HolderRecord(spec.uid, victim.instance, node, token, "krbd"),))
        opened = rbd.Image(ioctx, name.name)
        opened.write(b"x", 0)
        assert "has not let image rbd/actions-6 go yet" in desk.refused(f"image delete {name} --timeout 0.5", status=3)
        desk.client.revoke_lease(lease)
        desk.done(f"image delete {name}")
        with pytest.raises(rbd.OSError, match="error writing"):
            opened.write(b"y", 0)
        opened.close()
    assert desk.done("image list") == []


def test_an_operators_hand_on_images_and_nodes(desk: Desk, connection: CephConnection) -> None:
    """Grow, pin, stop, start, drain and spread, through the real etcd and Ceph; the copy in the image follows."""
    name = ImageName.parse("rbd/actions-7")
    holder = desk.done(f"image create {name} --size 4M")["holder"]
    other = "gw2" if holder == "gw1" else "gw1"
    assert desk.done(f"image resize {name} --size 8M")["size"] == 8 << 20
    assert "it is not made smaller" in desk.refused(f"image resize {name} --size 4M")
    facts = describe_image(connection, name)
    assert facts.size == 8 << 20
    assert desk.done(f"image pin {name} {other}")["holder"] == other
    copy = read_metadata(header_of(connection, name, facts.image_id), SPEC_KEY)
    assert copy is not None
    assert read_image(copy.encode(), "copy") == desk.store.image(name)[0]
    assert desk.done(f"image stop {name}")["state"] == "stopped"
    assert desk.done(f"image start {name}")["holder"] == other
    assert desk.done(f"node drain {other} --reason disks")["images"] == []
    assert desk.done(f"image show {name}")["holder"] == holder
    assert f"no active node could serve {name}" in desk.refused(f"node maintenance {holder}")
    assert desk.done(f"node resume {other}")["state"] == "active"
    assert desk.done(f"node weight {other} 300")["weight"] == 300
    planned = desk.done("image rebalance --dry-run")
    assert [(move["image"], move["to"], move["reason"]) for move in planned] == [
        (str(name), other, f"it is pinned to {other}")
    ]
    assert desk.done("image rebalance") == planned
    assert desk.done(f"image show {name}")["holder"] == other
    desk.done(f"image delete {name}")


def test_a_removed_nodes_clients_write_nothing_more(desk: Desk, ceph: Ceph) -> None:
    """A dead node's client that still has an image open is fenced before the node is forgotten, and stays on record."""
    desk.agents.clear()
    name = ImageName.parse("rbd/actions-of-the-dead")
    desk.done(f"image create {name} --size 1M --no-wait")
    spec, revision = desk.store.image(name)
    lease, node = desk.client.grant_lease(60).id, Label("gw9")
    with ceph.connect() as victim, victim.pool("rbd") as ioctx:
        desk.store.join(LiveNode(node, lease, "boot", "0.1.0", (), (victim.instance,)))
        token = desk.store.claim(spec, revision, node, lease).token
        desk.store.add_records(spec.uid, token, (HolderRecord(spec.uid, victim.instance, node, token, "krbd"),))
        opened = rbd.Image(ioctx, name.name)
        opened.write(b"x", 0)
        assert "node gw9 is live" in desk.refused("node remove gw9")
        desk.client.revoke_lease(lease)
        assert desk.done("node remove gw9")["fenced"] == 1
        with pytest.raises(rbd.OSError, match="error writing"):
            opened.write(b"y", 0)
        opened.close()
        view = desk.store.view()
        assert (node in view.nodes, set(view.fences), view.records) == (False, {victim.instance}, ())
    desk.done(f"image delete {name}")


def test_a_cluster_is_made_once(desk: Desk) -> None:
    """A second init is refused, and an anchor pool that is not there makes no cluster elsewhere."""
    assert "there is a cluster under" in desk.refused(f"cluster init {NETWORKS} --anchor-pool rbd")
    elsewhere = desk.settings.read_text().replace(PREFIX, f"{PREFIX}elsewhere/")
    desk.settings.write_text(elsewhere)
    assert "there is no pool 'nopool'" in desk.refused(f"cluster init {NETWORKS} --anchor-pool nopool")
    assert "not initialised" in desk.refused("status")


def test_the_doctor_finds_nothing_wrong_with_etcd(desk: Desk) -> None:
    """With the least role, all that the doctor asks of etcd is answered, and it says that the role is no wider.

    But for the version, which is Debian 12's.
    """
    told = desk.done("doctor --only etcd")
    wrong = [finding["text"] for finding in told["findings"] if finding["severity"] != "ok"]
    assert [text for text in wrong if "may end all of them at once" not in text] == []
    said = " ".join(finding["text"] for finding in told["findings"])
    assert "this node's certificate" in said
    assert said.count("the certificate of ") == 3
    assert "read and write the cluster's keys, and no others" in said
    assert "3 of 3 members answer" in said
