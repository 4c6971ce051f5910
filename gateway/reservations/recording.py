"""From the kernel's table to the image's `pr_info`: one commit, and the comparison of the two.

The kernel's text that announced a change is a trigger only: it is written without a lock, so an older one can arrive
after a newer one. The table is read after it arrived, and is at least as new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from gateway.errors import BadInput, DamagedTable, Inconsistent, Unavailable
from gateway.images.header import ImageHeader, commit_pr_info
from gateway.lio import mapped_initiators, relative_ports, scsi_generic
from gateway.lio.exports import Export
from gateway.model import Iqn, Label
from gateway.reservations import pr_info
from gateway.reservations.amending import full_name
from gateway.reservations.lines import parse_aptpl_text, state_from
from gateway.reservations.sg import ScsiDevice, read_table
from gateway.reservations.state import Nexus, ReservationState
from gateway.reservations.telling import forgotten_in, leaving_in


@dataclass(frozen=True)
class Ports:
    """A target as the kernel has it now: each tag's relative port, and the initiators with a LUN there."""

    target: Iqn
    relative: Mapping[int, int]
    initiators: Mapping[int, frozenset[Iqn]]

    @classmethod
    def of(cls, iqn: Iqn) -> Ports:
        """Read them."""
        return cls(iqn, relative_ports(iqn), mapped_initiators(iqn))

    def binds(self, nexus: Nexus) -> bool:
        """Whether a registration of that nexus is in force here; if not, it is stale, and kept as it is recorded."""
        return nexus.target == self.target and nexus.initiator in self.initiators.get(nexus.tag, ())


def read_state(uid: str, ports: Ports, hints: Iterable[Nexus], *, timeout: float) -> ReservationState:
    """The kernel's table of an exported image, read through the node's own nexus; `timeout` in seconds a command.

    Unavailable if the nexus went away, or another one came, while it was opened.
    """
    place = scsi_generic(uid)
    with ScsiDevice(place) as device:
        if scsi_generic(uid) != place:  # a number that is free is given to the next device, of whatever image
            raise Unavailable(f"{place} is not image {uid}'s any more: its reservations cannot be read")
        table = read_table(device, timeout=timeout)
    tags = {port: tag for tag, port in ports.relative.items()}
    return state_from(table, target=ports.target, tag_of_port=tags, hints=hints, sequence=0)


def record(
    export: Export,
    header: ImageHeader,
    node: Label,
    text: bytes,
    *,
    known: bytes | None,
    now: int,
    timeout: float,
    expect_whole: Callable[[], None],
) -> bytes:
    """Commit the kernel's present table of an export as its image's `pr_info`; returns the new text.

    `text` is what the kernel wrote, or the agent (`gateway.reservations.telling`), `known` what this node committed
    last (None: nothing yet), `now` the time in seconds since the epoch. `expect_whole` raises while the export is
    condemned or being built: what hung here for so long may meet its successor, whose table is not restored yet.
    LostRace: another holder. Inconsistent: somebody else changed `pr_info` since, the table cannot be recorded, or the
    kernel's is not what it is to be now.
    """
    gone, forgotten = leaving_in(text), forgotten_in(text)
    ours = gone or forgotten or not text.strip(b"\0")
    hints = () if ours else tuple(each.nexus for each in parse_aptpl_text(text) if each.all_tg_pt)

    woken = False

    def decide(old: bytes | None) -> bytes:
        nonlocal woken
        before = recorded(old)
        if known is not None and not same_but_sequence(before, pr_info.decode(known)):
            raise Inconsistent("somebody else changed pr_info since this node wrote it: it is written by no one else")
        expect_whole()
        ports = Ports.of(export.iqn)
        table = read_state(export.device.uid, ports, (*hints, *before.hints), timeout=timeout)
        expect_whole()
        try:
            table = without(table, gone, forgotten)
            after = successor(without(before, gone, forgotten), table, ports.binds, now)
            woken = asleep(before, ports.binds) and bool(table.registrations) and table.reservation is None
            return pr_info.encode(after)
        except BadInput as error:
            raise Inconsistent(f"the table of reservations cannot be recorded: {error}") from None

    written = commit_pr_info(header, export.device.token, node, decide)
    if woken:
        raise Inconsistent(
            "it is recorded, and whoever registered holds with all registrants what was not in force here: the export"
            " is to be built anew with that"
        )
    return written


def recorded(text: bytes | None) -> ReservationState:
    """What a header's `pr_info` says; DamagedTable also where there is none, for a holder's header has one."""
    if text is None:
        raise DamagedTable("pr_info is missing: somebody removed it from the image's header")
    return pr_info.decode(text)


def without(
    state: ReservationState, gone: Collection[Iqn], forgotten: Collection[str] = frozenset()
) -> ReservationState:
    """The state without these initiators' registrations and those of these names; a new generation if it had any."""
    nexuses = (each.nexus for each in state.registrations)
    left = state.without(nexus for nexus in nexuses if nexus.initiator in gone or full_name(nexus) in forgotten)
    same = len(left.registrations) == len(state.registrations)
    return state if same else replace(left, generation=(state.generation + 1) % 2**32)


def asleep(state: ReservationState, binds: Callable[[Nexus], bool]) -> bool:
    """Whether all registrants hold a reservation and none of them binds here, so that the kernel has it not in force.

    Nor can it come in force in the kernel by itself: the line that carries it need not be that of the first who binds.
    """
    held = state.reservation
    return held is not None and held.type.held_by_all and not any(binds(each.nexus) for each in state.registrations)


def successor(
    before: ReservationState, table: ReservationState, binds: Callable[[Nexus], bool], now: int
) -> ReservationState:
    """What is recorded after `before` when the kernel has that table: what does not bind here stays as it was."""
    known = {(each.nexus, each.key): each.since for each in before.registrations}
    live = tuple(replace(each, since=known.get((each.nexus, each.key), now)) for each in table.registrations)
    bound = {each.nexus for each in live}  # one that was allowed since `binds` was looked at is no stale one any more
    stale = tuple(each for each in before.registrations if not binds(each.nexus) and each.nexus.told not in bound)
    held, old = table.reservation, before.reservation
    if held is not None:
        same = old is not None and (old.type, old.holder, old.key) == (held.type, held.holder, held.key)
        held = replace(held, since=old.since if same and old is not None else now)
    elif old is not None and old.type.held_by_all:
        held = old if asleep(before, binds) else None  # in force, it was released
    elif old is not None and old.holder in {each.nexus for each in stale}:
        held = old
    after = replace(before, registrations=(*live, *stale), reservation=held, spc2_holder=None)
    generation = before.generation if content(after) == content(before) else (before.generation + 1) % 2**32
    return replace(after, sequence=(before.sequence + 1) % 2**32, generation=generation)


Content = tuple[frozenset[tuple[Nexus, int, bool]], tuple[int, Nexus | None] | None]
"""Who is registered how, and who holds what: what a state says to an initiator."""


def content(state: ReservationState, keep: Callable[[Nexus], bool] = lambda _: True) -> Content:
    """What a state says of those nexuses; where all registrants hold, or a session is not told, any of them will do."""
    registrations = frozenset(
        (each.nexus.told, each.key, each.all_tg_pt) for each in state.registrations if keep(each.nexus)
    )
    held = state.reservation
    if held is None or not (registrations if held.type.held_by_all else keep(held.holder)):
        return registrations, None
    holder = None if held.type.held_by_all else held.holder.told
    return registrations, (held.type.value, holder)


def same_but_sequence(a: ReservationState, b: ReservationState) -> bool:
    """Whether two states say the same; a takeover raises the sequence alone."""
    return content(a) == content(b) and a.generation == b.generation


def differs(state: ReservationState, table: ReservationState, ports: Ports) -> str | None:
    """In words, how the kernel's table is not what is recorded and binds here; None if it is."""
    wanted, found = content(state, ports.binds), content(table)
    missing, extra = wanted[0] - found[0], found[0] - wanted[0]
    if missing or extra:
        some = ", ".join(str(nexus) for nexus, _, _ in sorted(missing | extra, key=str)[:3])
        return f"{len(missing)} registrations are missing and {len(extra)} are not recorded ({some})"
    if wanted[1] != found[1]:
        return "the reservation that is held is not the recorded one"
    return None
