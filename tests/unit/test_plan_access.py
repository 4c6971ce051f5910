"""Who may log in, as plans make it: on the fly, in the right order, and never less asked for than was set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.access import access_of
from gateway.credentials import Credentials, SealedCredentials, Secret, Unreadable
from gateway.errors import KernelRefused, Sealed
from gateway.model import ClusterView, ImageSpec, Iqn, Label, Move
from gateway.observed import Acl, Discovery
from gateway.plan import DISCOVERY, Situation, plan
from gateway.profile import access_differences, acl_is, auth_of
from gateway.steps import Claim, CloseDiscovery, SetDiscovery, SetInitiators
from gateway.store.keys import Keys
from gateway.vault import Vault, open_all
from tests.fakes.cluster import FakeStore
from tests.fakes.node import FakePool, acl_of
from tests.unit.test_plan import Node, spec_of, world

KEYS = Keys()
KEY, OTHER_KEY = Vault(bytes(range(32))), Vault(bytes(32))
ALICE, BOB = spec_of(1).initiators[0], Iqn("iqn.2026-11.x:bob")
ONE = Credentials("alice", Secret("first-secret-1"))
TWO = Credentials("alice", Secret("second-secret2"), "us", Secret("targets-secret"))


class Keyed(Node):
    """A gateway with a key of the secrets, or without."""

    vault: Vault | None = KEY

    def speak(self) -> None:
        """As ever, with the key's id."""
        super().speak()
        word = replace(self.store.state.live[self.name], key_id=self.vault.key_id if self.vault else "")
        self.store.set(live={**self.store.state.live, self.name: word})

    def situation(self) -> Situation:
        """As ever, with what the key opens."""
        found = super().situation()
        return replace(found, opened=open_all(found.view, KEYS, self._key))

    def acls(self, spec: ImageSpec) -> dict[Iqn, Acl]:
        """The ACLs of the image's first TPG."""
        target = self.kernel.state.target(spec.identity.iqn)
        assert target is not None
        assert all(tpg.initiators == target.tpgs[0].initiators for tpg in target.tpgs)
        return dict(target.tpgs[0].initiators)

    def _key(self) -> Vault:
        if self.vault is None:
            raise Sealed("there is no key")
        return self.vault


def sealed(iqn: Iqn, credentials: Credentials, vault: Vault = KEY) -> dict[Iqn, SealedCredentials | Unreadable]:
    """The view's part for one initiator."""
    return {iqn: vault.seal(credentials, KEYS.initiator(iqn))}


def cluster_of(*specs: ImageSpec) -> FakeStore:
    """A cluster at its beginning, with these images."""
    store, _, _ = world(nodes=0)
    store.set(images={spec.name: spec for spec in specs}, revisions={spec.name: 5 for spec in specs})
    return store


def nodes(store: FakeStore, count: int = 1) -> list[Keyed]:
    """That many gateways with the key."""
    pool = FakePool()
    found = [Keyed(f"gw{number}", store, pool) for number in range(1, count + 1)]
    for node in found:
        node.turn()
    return found


def test_credentials_are_there_with_the_export_and_change_on_the_fly() -> None:
    """Taken up with them, changed, made mutual and cleared: each time the ACL alone, under the same claim."""
    spec = spec_of(1)
    store = cluster_of(spec)
    store.set(credentials=sealed(ALICE, ONE))
    (node,) = nodes(store)
    node.settle()
    assert node.serves(spec)
    assert node.acls(spec) == {ALICE: acl_of(ONE)}
    token = store.state.claims[spec.uid].token
    for wanted in (TWO, ONE, None, TWO):
        store.set(credentials=sealed(ALICE, wanted) if wanted else {})
        (steps,) = plan(node.situation()).images.values()
        assert [type(step) for step in steps] == [SetInitiators]
        node.settle()
        assert node.acls(spec) == {ALICE: acl_of(wanted)}
    assert store.state.claims[spec.uid].token == token


def test_members_of_groups_come_and_go() -> None:
    """A group's members are initiators like any other, with the credentials that are theirs."""
    spec = replace(spec_of(1), groups=(Label("hosts"),))
    store = cluster_of(spec)
    store.set(groups={Label("hosts"): (BOB, ALICE)}, credentials=sealed(BOB, TWO))
    (node,) = nodes(store)
    node.settle()
    assert node.acls(spec) == {ALICE: acl_of(None), BOB: acl_of(TWO)}
    store.set(groups={Label("hosts"): ()})
    node.settle()
    assert node.acls(spec) == {ALICE: acl_of(None)}


def test_a_node_without_the_key_takes_nothing_that_needs_it() -> None:
    """Another node takes the image; without any there is no claim; images without CHAP are served all the same."""
    spec, plain = spec_of(1), replace(spec_of(2), initiators=(BOB,))
    store = cluster_of(spec, plain)
    store.set(credentials=sealed(ALICE, ONE))
    first, second = nodes(store, 2)
    for node in (first, second):
        node.vault = None
    for node in (first, second, first, second):
        node.settle()
    assert set(store.state.claims) == {plain.uid}
    second.vault = OTHER_KEY
    second.settle()
    assert set(store.state.claims) == {plain.uid}
    second.vault = KEY
    second.settle()
    assert second.serves(spec)
    assert second.acls(spec) == {ALICE: acl_of(ONE)}


def unreadable_value(view: ClusterView) -> ClusterView:
    """The initiator's value is damaged."""
    return replace(view, credentials={ALICE: Unreadable("cannot be read: why")})


def moved_value(view: ClusterView) -> ClusterView:
    """The initiator's value is another one's."""
    return replace(view, credentials={ALICE: KEY.seal(ONE, KEYS.initiator(BOB))})


def lost_group(view: ClusterView) -> ClusterView:
    """The image's group is damaged."""
    return replace(view, groups={}, broken_groups={Label("hosts"): "cannot be read: why"})


@pytest.mark.parametrize("damage", [unreadable_value, moved_value, lost_group])
def test_what_is_unknown_leaves_what_is_served_and_lets_nothing_be_taken(
    damage: Callable[[ClusterView], ClusterView],
) -> None:
    """The export stays with the ACLs it has and somebody known is still let in; nobody claims the image anew."""
    spec = replace(spec_of(1), groups=(Label("hosts"),))
    store = cluster_of(spec)
    store.set(credentials=sealed(ALICE, ONE), groups={Label("hosts"): ()})
    (node,) = nodes(store)
    node.settle()
    store.state = damage(store.state)
    carol = Iqn("iqn.2026-11.x:carol")
    store.set(images={spec.name: replace(spec, initiators=(ALICE, carol))})
    node.settle()
    assert node.serves(spec)
    assert node.acls(spec) == {ALICE: acl_of(ONE), carol: acl_of(None)}
    access = access_of(store.state, node.situation().opened, store.state.images[spec.name])
    assert access.obstacle
    assert access_differences(access, node.kernel.state.target(spec.identity.iqn)) == ()
    node.serving = False
    store.expire(node.name)
    node.withdraw()
    node.serving = True
    node.join()
    node.settle()
    assert store.state.claims == {}


def test_an_initiator_is_denied_though_another_one_is_unknown() -> None:
    """One damaged value keeps nobody else in."""
    spec = replace(spec_of(1), initiators=(ALICE, BOB))
    store = cluster_of(spec)
    store.set(credentials=sealed(ALICE, ONE))
    (node,) = nodes(store)
    node.settle()
    store.set(credentials={ALICE: Unreadable("why")}, images={spec.name: replace(spec, initiators=(ALICE,))})
    node.settle()
    assert node.acls(spec) == {ALICE: acl_of(ONE)}


def test_an_image_is_not_moved_to_a_node_that_cannot_open_it() -> None:
    """The holder keeps it and forgets the move, whoever asked for it."""
    spec = spec_of(1)
    for why in ("", "for evenness"):
        store = cluster_of(spec)
        store.set(credentials=sealed(ALICE, ONE))
        first, second = nodes(store, 2)
        second.vault = None
        second.settle()
        first.settle()
        store.set(moves={spec.uid: Move(second.name, 77, why)})
        first.settle()
        assert (store.state.moves, first.serves(spec)) == ({}, True)


def test_a_holder_that_cannot_serve_for_want_of_the_key_lets_go() -> None:
    """Only if another node has the key; else it waits for it."""
    spec = spec_of(1)
    store = cluster_of(spec)
    store.set(credentials=sealed(ALICE, ONE))
    first, second = nodes(store, 2)
    second.vault = None
    second.speak()
    first.settle()
    first.vault = None
    first.kernel.state = replace(first.kernel.state, targets=())
    for _ in range(4):
        first.turn()
    assert store.state.claims[spec.uid].node == first.name
    second.vault = KEY
    second.speak()
    first.settle()
    second.settle()
    assert second.serves(spec)


def test_an_interrupted_change_is_finished_later() -> None:
    """The kernel that refuses after the first TPG is asked again, and both have it then."""
    spec = spec_of(1)
    store = cluster_of(spec)
    (node,) = nodes(store)
    node.settle()
    store.set(credentials=sealed(ALICE, ONE))

    def refuse(act: str) -> None:
        if act == "set_initiators halfway":
            raise KernelRefused("no")

    node.kernel.before = refuse
    node.turn()
    node.kernel.before = lambda _: None
    node.settle()
    assert node.acls(spec) == {ALICE: acl_of(ONE)}


def test_discovery_asks_before_anything_is_taken() -> None:
    """A node whose discovery does not ask yet claims nothing in that turn; set, rotated and cleared it follows."""
    spec = spec_of(1)
    store = cluster_of(spec)
    (node,) = nodes(store)
    store.set(discovery=KEY.seal(ONE, KEYS.discovery))
    node.speak()
    first = plan(node.situation())
    assert first.images[DISCOVERY] == (SetDiscovery(ONE),)
    assert not any(isinstance(step, Claim) for steps in first.images.values() for step in steps)
    node.settle()
    assert node.serves(spec)
    for wanted in (TWO, None):
        store.set(discovery=KEY.seal(wanted, KEYS.discovery) if wanted else None)
        node.settle()
        assert node.kernel.state.discovery == Discovery(wanted is not None, auth_of(wanted))
        assert node.serves(spec)


def test_discovery_that_is_unknown_answers_nobody() -> None:
    """Without the key discovery is closed where it was open, and stays as it is where it asks for something."""
    store = cluster_of(spec_of(1))
    (node,) = nodes(store)
    node.vault = None
    store.set(discovery=KEY.seal(ONE, KEYS.discovery))
    node.speak()
    assert plan(node.situation()).images[DISCOVERY] == (CloseDiscovery(),)
    node.settle()
    assert node.kernel.state.discovery == Discovery(enforced=True)
    assert node.serves(spec_of(1))
    node.vault = KEY
    node.settle()
    node.vault = None
    node.settle()
    assert node.kernel.state.discovery == Discovery(enforced=True, auth=auth_of(ONE))


@pytest.mark.parametrize(
    ("acl", "credentials", "same"),
    [
        (Acl(True, "0"), None, True),
        (Acl(True, "1", auth_of(ONE)), ONE, True),
        (Acl(True, "1", auth_of(TWO)), TWO, True),
        (Acl(True, None, auth_of(ONE)), ONE, True),
        (Acl(True, None), None, True),
        (None, None, False),
        (Acl(False, "0"), None, False),
        (Acl(True, "-1"), None, False),
        (Acl(True, "-1", auth_of(ONE)), ONE, False),
        (Acl(True, "0"), ONE, False),
        (Acl(True, "1"), None, False),
        (Acl(True, "1"), ONE, False),
        (Acl(True, "1", auth_of(TWO)), ONE, False),
        (Acl(True, "1", auth_of(ONE)), TWO, False),
        (Acl(True, None, auth_of(ONE)), None, False),
    ],
)
def test_when_an_acl_is_as_it_should_be(acl: Acl | None, credentials: Credentials | None, same: bool) -> None:
    """Exactly the credentials, asked for exactly where there are some; what is left to the TPG is not settled."""
    assert acl_is(acl, credentials) is same
