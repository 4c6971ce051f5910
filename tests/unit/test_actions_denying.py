"""Who is registered is denied only on purpose: by name, with a group, and as a member of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.actions import images, initiators
from gateway.actions.changing import Changed, await_applied
from gateway.actions.credentials import await_access
from gateway.actions.denying import Clearing
from gateway.actions.images import Wish
from gateway.actions.placing import stop
from gateway.errors import Refused, StorageUnavailable
from gateway.model import AmendmentKind, ImageName, ImageSpec, Iqn, Label
from gateway.reservations.amending import full_name
from gateway.reservations.pr_info import decode, encode
from gateway.reservations.state import Nexus, Registration, ReservationState
from gateway.store.values import Put
from tests.fakes.operation import Operation, operation

NAME, GROUP = ImageName.parse("rbd/disk1"), Label("hosts")
A, B = Iqn("iqn.1993-08.org.debian:01:a"), Iqn("iqn.1993-08.org.debian:01:b")
SCRAPPED = Clearing("operator root@gw1", "scrapped")

Denial = Callable[[Operation, Clearing | None], object]
DENIALS: dict[str, Denial] = {
    "by name": lambda made, clearing: initiators.deny(made.store, made.ceph, NAME, A, clearing),
    "with a group": lambda made, clearing: initiators.deny_group(made.store, made.ceph, NAME, GROUP, clearing),
    "as a member": lambda made, clearing: initiators.remove_members(made.store, made.ceph, GROUP, (A,), clearing),
}


def nexus(spec: ImageSpec, initiator: Iqn) -> Nexus:
    """Its session at the first path."""
    return Nexus(initiator, "00023d000001", spec.identity.iqn, 1)


def served(how: str) -> Operation:
    """An image that A may use in that way, and B by name; both are registered."""
    made = operation()
    images.create(made.store, made.ceph, NAME, 1 << 30, Wish(), random=made.random)
    initiators.create_group(made.store, GROUP, (A,))
    initiators.allow(made.store, made.ceph, NAME, B)
    if how == "by name":
        initiators.allow(made.store, made.ceph, NAME, A)
    else:
        initiators.allow_group(made.store, made.ceph, NAME, GROUP)
    made.settle()
    spec = made.store.image(NAME)[0]
    both = tuple(Registration(nexus(spec, iqn), 0xABC) for iqn in (A, B))
    made.ceph.pr_info[spec.image_id] = encode(ReservationState(registrations=both))
    return made


def allowed(made: Operation) -> set[Iqn]:
    """Who may log in now."""
    view = made.store.view()
    return set(view.initiators_of(view.images[NAME]))


@pytest.mark.parametrize("how", DENIALS)
def test_a_registered_initiator_is_denied_only_on_purpose(how: str) -> None:
    """The refusal names key and way, and changes nothing; with the word it is done, and is written down."""
    made = served(how)
    with pytest.raises(Refused, match=rf"image rbd/disk1: {A} with key 0xabc; .*--clear-registration --reason TEXT"):
        DENIALS[how](made, None)
    assert allowed(made) == {A, B}
    DENIALS[how](made, SCRAPPED)
    assert allowed(made) == {B}
    spec = made.store.image(NAME)[0]
    assert made.store.view().amendments[spec.uid].nexuses == (full_name(nexus(spec, A)),)


@pytest.mark.parametrize("wait", ["by name", "as a member"])
def test_a_denial_is_done_when_nothing_is_recorded_any_more(wait: str) -> None:
    """Whoever waits for it sees that, too: allowed anew before, the initiator would cost the image a takeover."""
    made = served(wait)
    changed = DENIALS[wait](made, SCRAPPED)
    spec = made.store.image(NAME)[0]
    patience = made.patience()
    if isinstance(changed, Changed):
        await_applied(made.store, changed, patience)
    else:
        assert isinstance(changed, initiators.Group)
        await_access(made.store, changed.revision, lambda *_: True, patience)
    assert not made.store.view().amendments
    assert {each.nexus.initiator for each in decode(made.ceph.pr_info[spec.image_id]).registrations} == {B}
    assert any("has not changed the recorded reservations" in word for word in made.said)


@pytest.mark.parametrize("how", DENIALS)
def test_what_nobody_exports_is_forgotten_when_it_is_taken_up(how: str) -> None:
    """Of a stopped image the registrations go with its next taker; the others stay."""
    made = served(how)
    spec = stop(made.store, made.ceph, NAME).spec
    made.settle()
    DENIALS[how](made, SCRAPPED)
    amendment = made.store.view().amendments[spec.uid]
    assert (amendment.kind, amendment.by, amendment.why) == (AmendmentKind.FORGET, SCRAPPED.by, "scrapped")
    assert amendment.nexuses == (full_name(nexus(spec, A)),)


@pytest.mark.parametrize("how", DENIALS)
def test_unknown_is_not_absent(how: str) -> None:
    """Without an answer of Ceph, or with a table that nobody understands, nobody is denied."""
    made = served(how)
    made.ceph.fail["read_pr_info"] = StorageUnavailable("Ceph did not answer")
    with pytest.raises(StorageUnavailable):
        DENIALS[how](made, SCRAPPED)
    made.ceph.fail.clear()
    made.ceph.pr_info[made.store.image(NAME)[0].image_id] = b"junk"
    for clearing in (None, SCRAPPED):
        with pytest.raises(Refused, match=r"who is registered is not known: .*reservation clear rbd/disk1"):
            DENIALS[how](made, clearing)
    assert allowed(made) == {A, B}


def test_whoever_may_log_in_all_the_same_loses_nothing() -> None:
    """A member that is allowed by name stays registered when its group goes, and nothing is asked of Ceph."""
    made = served("with a group")
    initiators.allow(made.store, made.ceph, NAME, A)
    made.ceph.acts.clear()
    initiators.deny_group(made.store, made.ceph, NAME, GROUP)
    assert "read_pr_info" not in made.ceph.acts
    assert allowed(made) == {A, B}


def test_of_a_group_that_cannot_be_read_anybody_may_be_a_member() -> None:
    """Whoever is registered and has no other way in is taken for one."""
    made = served("with a group")
    made.etcd.transact([], [Put(made.store.keys.group(GROUP), b"junk")])
    with pytest.raises(Refused, match=f"{A} with key"):
        initiators.deny_group(made.store, made.ceph, NAME, GROUP)


def test_a_change_that_is_pending_already_is_a_warning() -> None:
    """The denial stands, and what may stay recorded is told."""
    made = served("by name")
    spec = stop(made.store, made.ceph, NAME).spec
    made.settle()
    initiators.deny(made.store, made.ceph, NAME, A, SCRAPPED)
    changed = initiators.deny(made.store, made.ceph, NAME, B, SCRAPPED)
    assert "who were denied stay recorded: image rbd/disk1: another change" in changed.warning
    assert len(made.store.view().amendments[spec.uid].nexuses) == 1
