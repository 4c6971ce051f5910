"""Groups and credentials in etcd, on the real one and on the fake: guarded, seen at one revision, never half read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.credentials import Credentials, SealedCredentials, Secret, Unreadable
from gateway.errors import AlreadyExists, BadInput, Conflict, NotFound, Refused
from gateway.model import Iqn, Label
from gateway.store.cluster import ClusterStore
from gateway.vault import Vault
from tests.contract.cluster_fixtures import SETTINGS, Room, endpoints, room, spec
from tests.fakes.etcd import FakeEtcd

__all__ = ["endpoints", "room"]  # fixtures

ALICE, BOB, HOSTS = Iqn("iqn.2026-11.x:alice"), Iqn("iqn.2026-11.x:bob"), Label("hosts")
VAULT = Vault(bytes(range(32)))


def sealed(room: Room, secret: str = "first-secret-1") -> SealedCredentials:
    """Credentials of alice's."""
    return VAULT.seal(Credentials("alice", Secret(secret)), room.store.keys.initiator(ALICE))


def test_each_change_is_a_revision_of_the_access(room: Room) -> None:
    """Groups made, changed and deleted, credentials set and cleared: the view has them at the revision told."""
    store = room.store
    assert store.view().access_revision == 0
    steps: list[tuple[Callable[[], int | None], dict[Label, tuple[Iqn, ...]], bool, bool]] = [
        (lambda: store.create_group(HOSTS, (ALICE,)), {HOSTS: (ALICE,)}, False, False),
        (lambda: store.replace_group(HOSTS, (ALICE, BOB), store.group(HOSTS)[1]), {HOSTS: (ALICE, BOB)}, False, False),
        (lambda: store.put_initiator(ALICE, sealed(room)), {HOSTS: (ALICE, BOB)}, True, False),
        (lambda: store.put_discovery(sealed(room)), {HOSTS: (ALICE, BOB)}, True, True),
        (lambda: store.delete_initiator(ALICE), {HOSTS: (ALICE, BOB)}, False, True),
        (store.delete_discovery, {HOSTS: (ALICE, BOB)}, False, False),
    ]
    before = 0
    for act, groups, credentials, discovery in steps:
        revision = act()
        view = store.view()
        assert revision is not None
        assert before < revision == view.access_revision
        assert (view.groups, bool(view.credentials), view.discovery is not None) == (groups, credentials, discovery)
        before = revision
    store.delete_group(HOSTS)
    assert store.view().groups == {}
    assert store.view().access_revision > before
    assert store.delete_initiator(ALICE) is None
    assert store.delete_discovery() is None


def test_what_was_sealed_comes_back(room: Room) -> None:
    """The stored value opens as what was set, and a later one replaces it."""
    for secret in ("first-secret-1", "second-secret2"):
        room.store.put_initiator(ALICE, sealed(room, secret))
        found = room.store.view().credentials[ALICE]
        assert isinstance(found, SealedCredentials)
        assert VAULT.open(found, room.store.keys.initiator(ALICE)).secret.plain == secret


def test_groups_are_guarded(room: Room) -> None:
    """Made twice, changed on an old revision, missing, or named by an image: refused, with the reason."""
    store = room.store
    first = store.create_group(HOSTS, (ALICE,))
    assert store.create_group(HOSTS, (ALICE,)) == first
    with pytest.raises(AlreadyExists, match="there is a group hosts already"):
        store.create_group(HOSTS, (BOB,))
    store.replace_group(HOSTS, (BOB,), first)
    with pytest.raises(Conflict, match="group hosts was changed by somebody else"):
        store.replace_group(HOSTS, (ALICE,), first)
    for act in (store.group, store.delete_group):
        with pytest.raises(NotFound, match="there is no group none"):
            act(Label("none"))
    image = replace(spec(), groups=(HOSTS,))
    store.create_image(image)
    with pytest.raises(Refused, match="group hosts is used by image rbd/disk1"):
        store.delete_group(HOSTS)
    room.put("images/rbd/disk1", b'{"schema":9,"groups":["hosts"]}')
    with pytest.raises(Refused, match="group hosts is used by image rbd/disk1"):
        store.delete_group(HOSTS)
    assert store.view().groups == {HOSTS: (BOB,)}


def test_damage_is_told_and_never_taken_for_nothing(room: Room) -> None:
    """A value that is no form of ours stands as unreadable; others are read."""
    room.store.put_initiator(BOB, sealed(room))
    room.put(f"initiators/{ALICE}", b"\xff")
    room.put("initiators/no-iqn", b"{}")
    room.put("discovery", b'{"schema":1}')
    room.put("groups/hosts", b"[]")
    view = room.store.view()
    assert set(view.credentials) == {ALICE, BOB}
    assert isinstance(view.credentials[ALICE], Unreadable)
    assert isinstance(view.credentials[BOB], SealedCredentials)
    assert isinstance(view.discovery, Unreadable)
    assert view.groups == {}
    assert "cannot be read" in view.broken_groups[HOSTS]
    with pytest.raises(BadInput):
        room.store.group(HOSTS)


@pytest.mark.parametrize("ran", [True, False])
def test_an_answer_that_was_lost_is_asked_for_again(ran: bool) -> None:
    """Whether the first attempt ran or not, the act ends as done, once, at a revision that the view has."""
    etcd = FakeEtcd(time.monotonic)  # no real one loses answers on demand
    store = ClusterStore(etcd, "/rbdgate/lost/")
    store.initialise(SETTINGS)
    acts: list[Callable[[], int | None]] = [
        lambda: store.create_group(HOSTS, (ALICE,)),
        lambda: store.put_initiator(ALICE, sealed(Room(store, etcd))),
        lambda: store.delete_initiator(ALICE),
    ]
    for act in acts:
        etcd.lose_next(ran)
        assert act() == store.view().access_revision
