"""The marks of addresses that were served before, on the real etcd and on the fake: the holder's, and the image's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import ClaimLost, Conflict
from gateway.model import Label, Path, parse_address
from tests.contract.cluster_fixtures import Room, endpoints, room, spec

__all__ = ["endpoints", "room"]  # fixtures

OLD, KEPT, NEW = map(parse_address, ("10.0.1.100", "10.0.1.101", "10.0.1.102"))


def test_marks_come_from_the_holder_and_go_with_the_path_and_the_image(room: Room) -> None:
    """Marked twice is as good as once; a path that is replaced loses its mark, a deleted image all of them."""
    one = spec("rbd/one", str(OLD), str(KEPT))
    revision = room.store.create_image(one)
    claim = room.store.claim(one, revision, Label("gw1"), room.join())
    for _ in range(2):
        room.store.mark_served(one, claim.token, frozenset({OLD, KEPT}))
    assert room.store.view().served == {OLD, KEPT}
    other = replace(one, paths=(Path(1, NEW, Label("a")), one.paths[1]))
    revision = room.store.replace_image(one, other, revision)
    assert room.store.view().served == {KEPT}
    deleting = replace(other, deleting=True)
    revision = room.store.replace_image(other, deleting, revision)
    room.store.release(one.uid, claim.token, ())
    room.store.remove_image(deleting, revision)
    assert room.store.view().served == frozenset()


def test_no_mark_outlives_what_it_rests_on(room: Room) -> None:
    """Without the claim, or for an address that is not the image's (any more), nothing is marked."""
    one, two = spec("rbd/one", str(OLD)), spec("rbd/two", str(KEPT))
    revision = room.store.create_image(one)
    room.store.create_image(two)
    claim = room.store.claim(one, revision, Label("gw1"), room.join())
    with pytest.raises(Conflict, match="rbd/one"):
        room.store.mark_served(one, claim.token, frozenset({OLD, KEPT}))
    with pytest.raises(ClaimLost, match="node gw1 has it now"):
        room.store.mark_served(one, claim.token - 1, frozenset({OLD}))
    room.store.release(one.uid, claim.token, ())
    with pytest.raises(ClaimLost, match="nobody has it now"):
        room.store.mark_served(one, claim.token, frozenset({OLD}))
    assert room.store.view().served == frozenset()
