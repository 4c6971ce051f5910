"""The cluster in etcd, on the real one and on the fake: what an operator writes, and what anybody reads."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest

from gateway import schema
from gateway.errors import AlreadyExists, BadInput, Conflict, Inconsistent, NewerSchema, NotFound, Refused
from gateway.model import Amendment, AmendmentKind, Connection, Iqn, Label, NodeRecord, parse_address
from gateway.store.client import EtcdClient
from gateway.store.cluster import ClusterStore
from gateway.store.view import UNKNOWN
from tests.contract.cluster_fixtures import SETTINGS, Room, endpoints, live, record, room, spec

__all__ = ["endpoints", "room"]  # fixtures


def test_view_of_a_new_cluster(room: Room) -> None:
    """A cluster that was just initialised has its settings and nothing else."""
    view = room.store.view()
    assert view.settings == SETTINGS
    assert (*view.images, *view.broken, *view.nodes, *view.claims, *view.records, *view.fences) == ()
    with pytest.raises(AlreadyExists, match="cluster show"):
        room.store.initialise(replace(SETTINGS, iqn_prefix="iqn.2026-11.org.example"))


def test_no_cluster(room: Room) -> None:
    """Under another prefix there is no cluster, and the error says what to run."""
    with pytest.raises(NotFound, match="not initialised, run `rbdgate cluster init`"):
        ClusterStore(room.etcd, "/rbdgate/elsewhere/").view()


def test_damaged_settings(room: Room) -> None:
    """Settings that cannot be read are told from missing ones and from those of a newer version."""
    room.put("settings", b"\xff\xfe")
    with pytest.raises(Inconsistent, match="settings are damaged"):
        room.store.view()
    room.put("settings", b'{"schema":9}')
    with pytest.raises(NewerSchema, match="schema 9"):
        room.store.view()


def test_create_and_change_an_image(room: Room) -> None:
    """A created image is in the view at its revision, and a change made on that revision replaces it."""
    one = spec()
    revision = room.store.create_image(one)
    view = room.store.view()
    assert view.images == {one.name: one}
    assert view.revisions == {one.name: revision}
    allowed = replace(one, initiators=(Iqn("iqn.1993-08.org.debian:01:x"),))
    newer = room.store.replace_image(one, allowed, revision)
    assert room.store.image(one.name) == (allowed, newer)
    with pytest.raises(Conflict, match="changed by somebody else"):
        room.store.replace_image(one, replace(one, size=512), revision)
    assert room.store.image(one.name) == (allowed, newer)


def test_create_is_all_or_nothing(room: Room) -> None:
    """Each value that must be unique is refused with the image that has it, and nothing of the refused one stays."""
    one = spec("rbd/one", "10.0.1.101", serial="aa-1", iqn="iqn.2026-11.x.y:one")
    room.store.create_image(one)
    others = {
        "address 10.0.1.101 is taken by image rbd/one": spec("rbd/two", "10.0.1.102", "10.0.1.101"),
        "IQN iqn.2026-11.x.y:one is taken by image rbd/one": spec("rbd/two", "10.0.1.102", iqn="iqn.2026-11.x.y:one"),
        "serial AA1 .* is taken by image rbd/one": spec("rbd/two", "10.0.1.102", serial="AA1"),
        "uid .* is taken by image rbd/one": replace(spec("rbd/two", "10.0.1.102"), uid=one.uid),
        "served by this cluster already": spec("rbd/one", "10.0.1.102"),
    }
    assert room.store.addresses_taken() == {parse_address("10.0.1.101"): "rbd/one"}
    before = [item.key for item in room.etcd.range(room.store.keys.prefix).items]
    for words, other in others.items():
        with pytest.raises(AlreadyExists, match=words):
            room.store.refuse_taken(other)
        with pytest.raises(AlreadyExists, match=words):
            room.store.create_image(other)
    room.store.refuse_taken(spec("rbd/two", "10.0.1.102"))
    assert [item.key for item in room.etcd.range(room.store.keys.prefix).items] == before


def test_a_changed_path_moves_its_reservation(room: Room) -> None:
    """An address an image gives up can be taken by another, one it takes cannot."""
    one, two = spec("rbd/one", "10.0.1.101"), spec("rbd/two", "10.0.1.102")
    revision = room.store.create_image(one)
    room.store.create_image(two)
    with pytest.raises(AlreadyExists, match=r"10\.0\.1\.102 is taken by image rbd/two"):
        room.store.replace_image(one, replace(one, paths=two.paths), revision)
    moved = replace(one, paths=spec("rbd/one", "10.0.1.103").paths)
    room.store.replace_image(one, moved, revision)
    room.store.create_image(spec("rbd/three", "10.0.1.101"))
    with pytest.raises(AlreadyExists, match="taken by image rbd/one"):
        room.store.create_image(spec("rbd/four", "10.0.1.103"))


def test_remove_only_what_nobody_holds(room: Room) -> None:
    """An image goes only when it is marked, unclaimed and without records; its names are free afterwards."""
    one = spec()
    revision = room.store.create_image(one)
    with pytest.raises(Refused, match="not marked as deleting"):
        room.store.remove_image(one, revision)
    lease = room.join()
    token = room.store.claim(one, revision, Label("gw1"), lease).token
    room.store.add_records(one.uid, token, (record(one, token),))
    room.store.write_connections(
        one.uid, token, (Connection(parse_address("10.0.1.1"), 3260, one.paths[0].address, 9),)
    )
    assert len(room.store.connections_of(one.uid)) == 1
    marked = replace(one, deleting=True)
    revision = room.store.replace_image(one, marked, revision)
    with pytest.raises(Refused, match=r"may still be open on node gw1 \(client 10\.9\.0\.1:0/1\)"):
        room.store.remove_image(marked, revision)
    with pytest.raises(Refused, match="still held"):
        room.store.remove_image(marked, revision, room.store.records_of(one.uid))
    room.store.release(one.uid, token, room.store.records_of(one.uid))
    room.store.request_move(one.uid, Label("gw2"))
    room.store.request_amendment(one, CLEAR)
    room.store.remove_image(marked, revision)
    room.store.remove_image(marked, revision)
    view = room.store.view()
    assert (*view.images, *view.records, *view.moves) == ()
    left = {item.key.removeprefix(room.store.keys.prefix) for item in room.etcd.range(room.store.keys.prefix).items}
    assert left == {"settings", "nodes/gw1", "live/gw1"}
    room.store.create_image(spec())


def test_remove_with_fenced_records(room: Room) -> None:
    """Records whose clients the caller has fenced go with the image, unless one was written anew since."""
    one = spec()
    revision = room.store.create_image(one)
    lease = room.join()
    token = room.store.claim(one, revision, Label("gw1"), lease).token
    room.store.add_records(one.uid, token, (record(one, token),))
    old = room.store.records_of(one.uid)
    room.store.add_records(one.uid, token, (record(one, token),))
    room.etcd.revoke_lease(lease)
    marked = replace(one, deleting=True)
    revision = room.store.replace_image(one, marked, revision)
    with pytest.raises(Refused, match="may still be open"):
        room.store.remove_image(marked, revision, old)
    room.store.remove_image(marked, revision, room.store.records_of(one.uid))
    assert room.store.records_of(one.uid) == ()


def test_moves(room: Room) -> None:
    """The last wish stands; finishing an older one leaves it; a move of nothing is refused."""
    one = spec()
    room.store.create_image(one)
    first = room.store.request_move(one.uid, Label("gw2"))
    second = room.store.request_move(one.uid, Label("gw3"))
    room.store.finish_move(one.uid, first.revision)
    assert room.store.view().moves == {one.uid: second}
    room.store.finish_move(one.uid, second.revision)
    assert room.store.view().moves == {}
    with pytest.raises(NotFound, match="no image with uid"):
        room.store.request_move("0" * 16, Label("gw2"))


CLEAR = Amendment(AmendmentKind.CLEAR, "operator root@gw1", "all gone")
FORGET = Amendment(AmendmentKind.FORGET, "operator ann@gw2", "one gone", ("iqn.a:b,i,any,iqn.c:d,t,0x1",))


def test_amendments(room: Room) -> None:
    """One is pending for each image, and says whose it is; finishing it frees the place, finishing another does not."""
    one = spec()
    with pytest.raises(NotFound, match="no image rbd/disk1"):
        room.store.request_amendment(one, CLEAR)
    room.store.create_image(one)
    revision = room.store.request_amendment(one, FORGET)
    assert room.store.view().amendments == {one.uid: replace(FORGET, revision=revision)}
    with pytest.raises(AlreadyExists, match=r"is pending \(forget .*ann@gw2: one gone\)"):
        room.store.request_amendment(one, replace(FORGET, why="another"))
    room.store.finish_amendment(one.uid, revision - 1)
    assert one.uid in room.store.view().amendments
    room.store.finish_amendment(one.uid, revision)
    assert room.store.view().amendments == {}
    assert room.store.request_amendment(one, FORGET) > revision


def test_a_clear_takes_the_place_of_what_is_pending(room: Room) -> None:
    """A forget that waits for a table nobody understands, or a wish nobody understands, is not in the way of it."""
    one = spec()
    room.store.create_image(one)
    room.put(f"amendments/{one.uid}", b'{"schema":7}')
    assert room.store.view().amendments == {}
    with pytest.raises(AlreadyExists, match="cannot be read"):
        room.store.request_amendment(one, FORGET)
    room.store.finish_amendment(one.uid, room.store.request_amendment(one, CLEAR))
    forget = room.store.request_amendment(one, FORGET)
    clear = room.store.request_amendment(one, CLEAR)
    room.store.finish_amendment(one.uid, forget)
    assert room.store.view().amendments == {one.uid: replace(CLEAR, revision=clear)}
    with pytest.raises(AlreadyExists, match=r"\(clear, asked for by operator root@gw1: all gone\)"):
        room.store.request_amendment(one, CLEAR)


def test_garbage_stops_only_what_it_is_about(room: Room) -> None:
    """Whatever stands under the prefix, the good image is served, and each bad one says why it is not."""
    good, bad, foreign = spec("rbd/good", "10.0.1.101"), spec("rbd/bad", "10.0.1.102"), spec("rbd/ok", "10.0.1.103")
    for one in (good, bad, foreign):
        room.store.create_image(one)
    room.put("images/rbd/bad", b'{"schema":7}')
    room.put("images/rbd/junk", b"\x00\xffjunk")
    room.put("images/rbd/copy", schema.write_image(good))
    room.put(f"claims/{foreign.uid}", b"junk")
    room.put(f"records/{foreign.uid}/junk", b"junk")
    room.put("fences/10.0.0.1%3A0%2F7", b"junk")
    for key in (
        "fences/junk",
        "moves/junk",
        "amendments/junk",
        "nodes/gw9",
        "live/gw9",
        "status/?",
        "other/junk",
        "records/junk",
        "x",
    ):
        room.put(key, b"junk")
    lease = room.join()
    room.store.publish_status(Label("gw1"), lease, b"report")
    view, statuses = room.store.view_with_statuses()
    assert set(view.images) == {good.name, foreign.name}
    assert "schema 7" in view.broken["rbd/bad"]
    assert "no JSON" in view.broken["rbd/junk"]
    assert "is of image rbd/good" in view.broken["rbd/copy"]
    assert "who may have it open" in view.broken["rbd/ok"]
    assert view.claims[foreign.uid].node == UNKNOWN
    assert [str(instance) for instance in view.fences] == ["10.0.0.1:0/7"]
    assert view.nodes == {Label("gw1"): NodeRecord()}
    assert set(view.live) == {Label("gw1")}
    assert statuses == {Label("gw1"): b"report"}
    with pytest.raises(Inconsistent, match="cannot be read"):
        room.store.records_of(foreign.uid)


def test_twins(room: Room) -> None:
    """Of two specs with one address, however they came there, only the one that reserved it stands."""
    one = spec("rbd/one", "10.0.1.101")
    room.store.create_image(one)
    room.put("images/rbd/twin", schema.write_image(spec("rbd/twin", "10.0.1.101")))
    view = room.store.view()
    assert set(view.images) == {one.name}
    assert re.search(r"address 10\.0\.1\.101 is that of rbd/one as well", view.broken["rbd/twin"])


def test_an_odd_key_is_printable(room: Room) -> None:
    """A key that is no UTF-8 comes out as text any terminal takes."""
    room.put("images/rbd/\udcff", b"junk")
    name, reason = next(iter(room.store.view().broken.items()))
    assert (name + reason).encode("utf-8")
    assert name == r"rbd/\udcff"


def test_image_by_name(room: Room) -> None:
    """One image is read by its name; a missing and an unreadable one are told apart."""
    with pytest.raises(NotFound, match="image list"):
        room.store.image(spec().name)
    room.put("images/rbd/disk1", b"{}")
    with pytest.raises(BadInput, match="key 'schema' is missing"):
        room.store.image(spec().name)


def test_too_many_paths(room: Room) -> None:
    """More paths than a transaction takes are refused before anything is sent; the most allowed ones are not."""
    with pytest.raises(BadInput, match="33 paths"):
        room.store.create_image(spec("rbd/x", *(f"10.0.1.{n}" for n in range(1, 34))))
    one = spec("rbd/x", *(f"10.0.1.{n}" for n in range(1, 33)))
    revision = room.store.create_image(one)
    room.store.replace_image(
        one, replace(one, paths=spec("rbd/x", *(f"10.0.1.{n}" for n in range(33, 65))).paths), revision
    )


Act = Callable[[EtcdClient, ClusterStore, int], int]


def _race(act: Act, members: tuple[str, ...], prefix: str, number: int) -> int:
    client = EtcdClient(members)
    try:
        return act(client, ClusterStore(client, prefix), number)
    finally:
        client.close()


def _run_race(act: Act, members: tuple[str, ...], prefix: str) -> list[int]:
    """How often each of two processes won; the acts begin within milliseconds of each other."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_warm, (1, 2)))
        answers = [pool.submit(_race, act, members, prefix, number) for number in (1, 2)]
        return [answer.result(30) for answer in answers]


def _warm(_: int) -> None:
    """Importing this module is what a process needs long for."""


def _create_same_address(_: EtcdClient, store: ClusterStore, number: int) -> int:
    won = 0
    for turn in range(40):
        one = spec(f"rbd/r{number}-{turn}", "10.0.1.150", f"10.0.1.{number}")
        try:
            revision = store.create_image(one)
        except AlreadyExists:
            continue
        won += 1
        assert [other.name for other in store.view().images.values()] == [one.name]
        marked = replace(one, deleting=True)
        store.remove_image(marked, store.replace_image(one, marked, revision))
    return won


def test_two_processes_race_for_an_address(endpoints: tuple[str, ...]) -> None:
    """Two processes that create images with one address, again and again, never both have it."""
    client = EtcdClient(endpoints)
    store = ClusterStore(client, "/rbdgate/race-address/")
    store.initialise(SETTINGS)
    wins = _run_race(_create_same_address, endpoints, "/rbdgate/race-address/")
    assert min(wins) > 0
    assert store.view().images == {}
    client.close()


def _claim_all(client: EtcdClient, store: ClusterStore, number: int) -> int:
    lease, won = client.grant_lease(60).id, 0
    store.join(live(f"gw{number}", lease))
    for one in store.view().images.values():
        try:
            store.claim(one, store.view().revisions[one.name], Label(f"gw{number}"), lease)
            won += 1
        except Conflict as error:
            assert f"held by node gw{3 - number}" in str(error)  # noqa: PT017 - the message is what is tested
    return won


def test_two_processes_race_for_claims(endpoints: tuple[str, ...]) -> None:
    """Of two nodes that claim images at once, each image goes to one, and the other is told to whom."""
    client = EtcdClient(endpoints)
    store = ClusterStore(client, "/rbdgate/race-claim/")
    store.initialise(SETTINGS)
    for number in range(40):
        store.create_image(spec(f"rbd/disk{number}", f"10.0.1.{100 + number}"))
    wins = _run_race(_claim_all, endpoints, "/rbdgate/race-claim/")
    nodes = [str(claim.node) for claim in store.view().claims.values()]
    assert wins == [nodes.count("gw1"), nodes.count("gw2")]
    assert sum(wins) == 40
    client.close()


def test_an_operators_form_is_stored_as_documented(room: Room) -> None:
    """What stands under `images/` is the documented JSON, and the unique keys name the image."""
    one = spec("rbd/ns/disk1")
    room.store.create_image(one)
    found = room.etcd.get(f"{room.store.keys.prefix}images/rbd/ns/disk1")
    assert found is not None
    assert json.loads(found.value)["name"] == "rbd/ns/disk1"
    unique = room.etcd.range(f"{room.store.keys.prefix}unique/").items
    assert {item.value for item in unique} == {b"rbd/ns/disk1"}
    assert len(unique) == 4
