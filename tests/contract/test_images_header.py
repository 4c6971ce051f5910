"""The guarded swap of an image's header, on a real OSD."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import rbd

from gateway.errors import (
    Conflict,
    Inconsistent,
    LostRace,
    NewerSchema,
    NotFound,
    OutcomeUnknown,
    StorageUnavailable,
)
from gateway.images.cluster import CephConnection
from gateway.images.header import (
    PR_INFO_XATTR,
    ImageHeader,
    commit_pr_info,
    refresh,
    release,
    take_over,
)
from gateway.images.holder import HOLDER_XATTR, Holder
from gateway.images.image import describe_image
from gateway.images.metadata import SPEC_KEY, read_metadata, write_metadata
from gateway.images.sequence import EMPTY_PR_INFO, next_pr_info, sequence_of
from gateway.model import Amendment, AmendmentKind, Instance, Label
from gateway.reservations.amending import amended
from gateway.reservations.pr_info import decode
from tests.contract.ceph_under_test import Ceph, NewImage

pytest_plugins = ("tests.contract.ceph_fixtures",)

A = Holder(11, Label("gw1"), (Instance("10.0.0.1:0/1"), Instance("10.0.0.1:0/2")))
B = Holder(12, Label("gw2"), (Instance("10.0.0.2:0/3"),))


def set_xattr(header: ImageHeader, name: str, value: bytes) -> None:
    """Write an xattr behind the library's back."""
    with header.connection.pool(header.pool) as ioctx:
        ioctx.set_xattr(header.object_name, name, value)


def test_two_processes_lose_no_increment(ceph: Ceph, new_image: NewImage) -> None:
    """Two processes that each raise the sequence 500 times by guarded swaps raise it by exactly 1,000."""
    _, header = new_image()
    racers = [ceph.actor("race", header.image_id, "500") for _ in range(2)]
    for racer in racers:
        racer.communicate(timeout=120)
        assert racer.returncode == 0
    text = header.read().pr_info
    assert text is not None
    assert sequence_of(text) == sequence_of(EMPTY_PR_INFO) + 1000


def test_takeover_creates_both_xattrs(new_image: NewImage) -> None:
    """A takeover of an image nobody held writes the holder and the empty table, its sequence raised."""
    _, header = new_image()
    assert take_over(header, None, A) == EMPTY_PR_INFO.replace(b"\n0x00000001", b"\n0x00000002")
    state = header.read()
    assert state.holder == A
    assert state.pr_info == next_pr_info(EMPTY_PR_INFO)


def test_takeover_keeps_all_but_the_sequence(new_image: NewImage) -> None:
    """Registrations in pr_info come through a takeover byte for byte; only line 1 changes."""
    _, header = new_image()
    nexus = b"iqn.2000-01.a:b,i,0x3430303030313337,iqn.2000-01.c:d,t,0x1"
    lines = [b"0x00000001", b"0x000000ff", b"No SPC-2 Reservation holder", b"0x00000007"]
    tail = [
        b"0x0000000000001234 " + nexus + b" 0x00000005",
        b"0x00000001",
        b"0x0000000000001234 " + nexus + b" isid=x",
    ]
    old = b"".join(line + b"\n" for line in lines + tail) + b"\0"
    set_xattr(header, PR_INFO_XATTR, old)
    assert take_over(header, None, A) == old.replace(b"0x000000ff", b"0x00000100")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", Inconsistent),
        (EMPTY_PR_INFO[:-1], Inconsistent),
        (EMPTY_PR_INFO + b"\0", Inconsistent),
        (b"\xff" + EMPTY_PR_INFO[1:], Inconsistent),
        (EMPTY_PR_INFO.replace(b"0x00000001\n", b"0x00000002\n", 1), NewerSchema),
    ],
)
def test_damaged_pr_info_stops_a_takeover(new_image: NewImage, text: bytes, error: type[Exception]) -> None:
    """A takeover that cannot read pr_info writes nothing at all."""
    _, header = new_image()
    set_xattr(header, PR_INFO_XATTR, text)
    with pytest.raises(error):
        take_over(header, None, A)
    state = header.read()
    assert (state.holder, state.pr_info) == (None, text)


@pytest.mark.parametrize(
    "text", [None, b"junk", EMPTY_PR_INFO, EMPTY_PR_INFO.replace(b"0x00000001\n", b"0x00000002\n", 1)]
)
def test_a_takeover_can_clear_the_table(new_image: NewImage, text: bytes | None) -> None:
    """Whatever stands there, the holder and an empty table are written in one operation."""
    _, header = new_image()
    if text is not None:
        set_xattr(header, PR_INFO_XATTR, text)
    clear = Amendment(AmendmentKind.CLEAR, "operator root@gw1", "gone")
    written = take_over(header, None, A, lambda old: amended(old, clear))
    state = header.read()
    assert (state.holder, state.pr_info) == (A, written)
    assert (decode(written).registrations, decode(written).generation) == ((), 1)


def test_takeover_only_from_the_expected_holder(new_image: NewImage) -> None:
    """A takeover decided on one holder is refused when the header names another, and changes nothing."""
    _, header = new_image()
    take_over(header, None, A)
    for expected in (None, replace(A, token=10)):
        with pytest.raises(LostRace):
            take_over(header, expected, B)
    assert header.read().holder == A
    take_over(header, A, B)
    assert header.read().holder == B


def test_taking_over_again_refuses_what_is_still_under_way(new_image: NewImage) -> None:
    """A holder that takes its own image again raises the sequence: a write it had decided on before fails."""
    _, header = new_image()
    first = take_over(header, None, A)
    before = header.read()
    assert sequence_of(take_over(header, A, A)) == sequence_of(first) + 1
    with pytest.raises(Conflict):
        header.swap(before, holder=A, pr_info=first)


def test_a_commit_is_the_holders_alone(new_image: NewImage) -> None:
    """A table is recorded only under the claim that the header names, and not after that was let go."""
    _, header = new_image()
    take_over(header, None, A)
    assert commit_pr_info(header, A.token, A.node, next_pr_info) == header.read().pr_info
    for token, node in ((A.token + 1, A.node), (A.token, B.node)):
        with pytest.raises(LostRace):
            commit_pr_info(header, token, node, next_pr_info)
    release(header, A.token, A.node)
    with pytest.raises(LostRace):
        commit_pr_info(header, A.token, A.node, next_pr_info)


def test_a_commit_goes_on_when_only_the_version_moved(new_image: NewImage) -> None:
    """What else is written to the header between reading and writing costs another try; another text is a lost race."""
    _, header = new_image()
    take_over(header, None, A)

    def meanwhile(name: str, value: bytes) -> Callable[[bytes | None], bytes]:
        def decide(old: bytes | None) -> bytes:
            set_xattr(header, name, value)
            return next_pr_info(old)

        return decide

    done = commit_pr_info(header, A.token, A.node, meanwhile("rbdgate.other", b"x"))
    assert header.read().pr_info == done
    with pytest.raises(LostRace, match="somebody else changed pr_info"):
        commit_pr_info(header, A.token, A.node, meanwhile(PR_INFO_XATTR, EMPTY_PR_INFO))
    assert header.read().pr_info == EMPTY_PR_INFO


def test_a_takeover_between_reading_and_writing_refuses_the_commit(new_image: NewImage) -> None:
    """A holder that stood still between its decision and its write has lost: what the taker wrote stands."""
    _, header = new_image()
    take_over(header, None, A)

    def overtaken(old: bytes | None) -> bytes:
        take_over(header, A, B)
        return next_pr_info(old)

    with pytest.raises(LostRace):
        commit_pr_info(header, A.token, A.node, overtaken)
    assert header.read().holder == B


def test_a_former_holders_swap_fails(new_image: NewImage) -> None:
    """What a former holder decided before a takeover cannot be written after it."""
    _, header = new_image()
    take_over(header, None, A)
    seen = header.read()
    take_over(header, A, B)
    with pytest.raises(Conflict):
        header.swap(seen, holder=A, pr_info=next_pr_info(seen.pr_info))
    assert header.read().holder == B


def test_refresh_and_release_need_the_hold(new_image: NewImage) -> None:
    """Only the holder refreshes its instances or says that it let go, and neither touches pr_info."""
    _, header = new_image()
    text = take_over(header, None, A)
    renewed = replace(A, instances=(Instance("10.0.0.1:0/9"),))
    refresh(header, renewed)
    with pytest.raises(LostRace):
        refresh(header, B)
    with pytest.raises(LostRace):
        release(header, B.token, B.node)
    release(header, A.token, A.node)
    release(header, A.token, A.node)
    state = header.read()
    assert (state.holder, state.pr_info) == (replace(renewed, released=True), text)
    with pytest.raises(LostRace):
        refresh(header, A)


def test_other_changes_of_the_header_are_no_lost_race(new_image: NewImage) -> None:
    """Metadata and the kernel's lock live on the same object; they cost the next swap another try, not the race."""
    _, header = new_image()
    take_over(header, None, A)
    seen = header.read()
    write_metadata(header, SPEC_KEY, "{}")
    with pytest.raises(Conflict):
        header.swap(seen, holder=B, pr_info=None)
    take_over(header, A, B)
    assert read_metadata(header, SPEC_KEY) == "{}"


def test_a_removed_header_stays_removed(connection: CephConnection, new_image: NewImage) -> None:
    """No guarded write brings the header of a removed image back to life."""
    name, header = new_image()
    take_over(header, None, A)
    seen = header.read()
    with connection.pool("rbd") as ioctx:
        rbd.RBD().remove(ioctx, name.name)
    with pytest.raises(Conflict):
        header.swap(seen, holder=B, pr_info=b"x")
    for act in (lambda: take_over(header, A, B), lambda: write_metadata(header, SPEC_KEY, "x"), header.read):
        with pytest.raises(NotFound):
            act()
    assert read_metadata(header, SPEC_KEY) is None


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"version":1}', b'{"version":1,"token":1,"node":"a b","instances":[]}']
)
def test_damaged_holder_is_named(new_image: NewImage, raw: bytes) -> None:
    """A holder that cannot be read is no absent holder: reading raises instead of guessing."""
    _, header = new_image()
    set_xattr(header, HOLDER_XATTR, raw)
    with pytest.raises(Inconsistent):
        header.read()


def test_newer_holder_is_refused() -> None:
    """A holder written by a later version is refused as such, whatever else it holds."""
    with pytest.raises(NewerSchema):
        Holder.decode(b'{"version":2}')


def test_holder_survives_its_encoding() -> None:
    """Decoding gives back what was encoded."""
    for holder in (A, B, replace(A, released=True)):
        assert Holder.decode(holder.encode()) == holder


def test_metadata_is_rbds_own(connection: CephConnection, new_image: NewImage) -> None:
    """Metadata written by class method is what librbd reads, and takes no watch and no lock."""
    name, header = new_image()
    assert read_metadata(header, SPEC_KEY) is None
    write_metadata(header, SPEC_KEY, "ä" * 5000)
    assert read_metadata(header, SPEC_KEY) == "ä" * 5000
    assert not describe_image(connection, name).openers


def test_a_stopped_osd_is_a_bounded_error(ceph: Ceph, new_image: NewImage) -> None:
    """With the OSD stopped, reading fails in time and a swap says that its outcome is not known."""
    _, known = new_image()
    with ceph.connect(op_timeout=1) as impatient:
        header = replace(known, connection=impatient)
        seen = header.read()
        ceph.cluster.osd(0).stop()
        try:
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown):
                header.swap(seen, holder=A, pr_info=next_pr_info(seen.pr_info))
            with pytest.raises(StorageUnavailable):
                header.read()
            with pytest.raises(StorageUnavailable):
                take_over(header, None, A)
            assert time.monotonic() - began < 6
        finally:
            ceph.cluster.osd(0).cont()
        # The swap without an answer may have landed or not; the takeover writes anew in any case.
        take_over(replace(known, connection=known.connection), None, A)
        text = known.read().pr_info
        assert text is not None
        assert sequence_of(text) in (2, 3)
