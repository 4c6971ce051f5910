"""LIO's own text forms of registrations, and its table as our state. Pure.

Rule: nothing is guessed. A registration whose target port cannot be told is left out (its own PR OUT will tell it) or,
if it holds the reservation, refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.errors import BadInput, Inconsistent
from gateway.model import Iqn
from gateway.reservations.scsi import ISCSI, Descriptor, FullStatus
from gateway.reservations.state import Nexus, Registration, Reservation, ReservationState

FABRIC = "iSCSI"
"""What LIO's text calls iSCSI's registrations; those through `tcm_loop` are `loopback`."""

_NOBODY = "No Registrations or Reservations"
_NEEDED = frozenset(
    ("initiator_node", "sa_res_key", "res_holder", "res_all_tg_pt", "target_fabric", "target_node", "tpgt")
)
_LINE = re.compile(r"([a-z_]+)=([!-~]+)")
_ISID = re.compile(r"[0-9a-f]{12}")


def restore_lines(state: ReservationState, ports: Mapping[int, int]) -> tuple[str, ...]:
    """What to write, one line a write, to `core/<hba>/<dev>/pr/res_aptpl_metadata` before the first LUN link.

    `ports` is the relative port of each tag. Raises BadInput for a registration at a tag that has none.

    The format is target_pr_res_aptpl_metadata_store's (Linux 6.1, target_core_configfs.c): `key=value` at commas. It
    takes sa_res_key with match_u64, mapped_lun and target_lun too, the other numbers with match_int, all of them in
    base 0, so a leading zero makes a number octal (`res_type=08`, as LIO itself writes, is refused there): numbers are
    decimal here, without leading zeros. It ignores words that it cannot read, the fabrics' names, res_scope and
    port_rtpi (the port is that of the LUN that the registration binds to), and refuses a line without initiator_node,
    target_node or a key above 0, and a holder without a type.

    The order is the state's: LIO looks a nexus up from the front, and takes the first of that initiator at that port
    that has no ISID or this one.
    """
    holder = _holder(state)
    return tuple(
        ",".join(_words(state, registration, ports, registration.nexus == holder))
        for registration in state.registrations
    )


def _holder(state: ReservationState) -> Nexus | None:
    """The nexus whose line carries the reservation; for all registrants anyone's will do, for the kernel's book."""
    if state.reservation is None:
        return None
    if state.registration_of(state.reservation.holder) is not None:
        return state.reservation.holder
    return state.registrations[0].nexus


def _words(
    state: ReservationState, registration: Registration, ports: Mapping[int, int], holder: bool
) -> Iterator[str]:
    nexus = registration.nexus
    port = ports.get(nexus.tag)
    if port is None:
        raise BadInput(f"{nexus}: there is no port with that tag to restore its registration to")
    yield f"initiator_fabric={FABRIC}"
    yield f"initiator_node={nexus.initiator}"
    if _ISID.fullmatch(nexus.isid):
        yield f"initiator_sid={nexus.isid}"
    yield f"sa_res_key={registration.key}"
    yield f"res_holder={int(holder)}"
    if holder and state.reservation is not None:
        yield f"res_type={state.reservation.type.value}"
        yield "res_scope=0"
    yield f"res_all_tg_pt={int(registration.all_tg_pt)}"
    yield "mapped_lun=0"
    yield f"target_fabric={FABRIC}"
    yield f"target_node={nexus.target}"
    yield f"tpgt={nexus.tag}"
    yield f"port_rtpi={port}"
    yield "target_lun=0"


@dataclass(frozen=True)
class TextRegistration:
    """One iSCSI registration in the text that the kernel writes to `aptpl_<serial>`; `isid` empty: it has none."""

    initiator: Iqn
    isid: str
    key: int
    all_tg_pt: bool
    target: Iqn
    tag: int
    holder: bool

    @property
    def nexus(self) -> Nexus:
        """Whose registration it is, at which port."""
        return Nexus(self.initiator, self.isid, self.target, self.tag)


def parse_aptpl_text(text: bytes) -> tuple[TextRegistration, ...]:
    """The iSCSI registrations in the kernel's text, in its order (core_scsi3_update_aptpl_buf, target_core_pr.c).

    The text is a trigger and may be older than the table: use it for the tags of ALL_TG_PT registrations only. Words
    that are not known are passed over, so are registrations of other fabrics. Raises Inconsistent for anything else.
    """
    try:
        lines = text.rstrip(b"\0").decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise Inconsistent(f"the kernel's text of registrations: {error}") from None
    if lines == [_NOBODY]:
        return ()
    if lines == [""]:
        raise Inconsistent("the kernel's text of registrations is empty")
    blocks = _blocks(lines)
    return tuple(_text_registration(words, number) for number, words in blocks if words["initiator_fabric"] == FABRIC)


def _blocks(lines: list[str]) -> list[tuple[int, dict[str, str]]]:
    """The words of each registration with its number, from `PR_REG_START: 0` to `PR_REG_END: 0` and so on."""
    blocks: list[tuple[int, dict[str, str]]] = []
    words: dict[str, str] | None = None
    for number, line in enumerate(lines, start=1):
        if words is None:
            if line != f"PR_REG_START: {len(blocks)}":
                raise _garbage(number, f"{line!r} where registration {len(blocks)} should start")
            words = {}
        elif line == f"PR_REG_END: {len(blocks)}":
            if "initiator_fabric" not in words:
                raise _garbage(number, f"registration {len(blocks)} has no initiator_fabric")
            blocks.append((len(blocks), words))
            words = None
        else:
            found = _LINE.fullmatch(line)
            if found is None or found[1] in words:
                raise _garbage(number, f"{line!r} is no word of a registration, or its second")
            words[found[1]] = found[2]
    if words is not None:
        raise _garbage(len(lines), f"registration {len(blocks)} has no end")
    return blocks


def _text_registration(words: Mapping[str, str], number: int) -> TextRegistration:
    what = f"registration {number} in the kernel's text"
    missing = _NEEDED - words.keys()
    if missing:
        raise Inconsistent(f"{what} has no {min(missing)}")
    isid = words.get("initiator_sid", "")
    if isid and not _ISID.fullmatch(isid):
        raise Inconsistent(f"{what}: ISID {isid!r} is not 12 lower-case hex digits")
    try:
        return TextRegistration(
            initiator=Iqn(words["initiator_node"]),
            isid=isid,
            key=_number(what, words, "sa_res_key", range(1, 1 << 64)),
            all_tg_pt=bool(_number(what, words, "res_all_tg_pt", range(2))),
            target=Iqn(words["target_node"]),
            tag=_number(what, words, "tpgt", range(1, 1 << 16)),
            holder=bool(_number(what, words, "res_holder", range(2))),
        )
    except BadInput as error:
        raise Inconsistent(f"{what}: {error}") from None


def _number(what: str, words: Mapping[str, str], word: str, allowed: range) -> int:
    text = words[word]
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) not in allowed:
        raise Inconsistent(f"{what}: {word} {text!r} is out of range: {allowed[0]} to {allowed[-1]}")
    return int(text)


def _garbage(line: int, why: str) -> Inconsistent:
    return Inconsistent(f"the kernel's text of registrations, line {line}: {why}")


def state_from(
    table: FullStatus,
    *,
    target: Iqn,
    tag_of_port: Mapping[int, int],
    hints: Iterable[Nexus],
    sequence: int,
    spc2_holder: str | None = None,
) -> ReservationState:
    """The kernel's table as our state, with its generation; since when each registration is there, it cannot tell.

    `tag_of_port` is the tag at each relative port. The table names no port for a registration with ALL_TG_PT: it takes
    the first of `hints` (where ALL_TG_PT registrations were, likeliest first) that is of its initiator and ISID, of
    this target, and not taken yet, in the table's order. With none left it is left out: its own PR OUT has not been
    answered, and that one's write will bring its text.

    Raises Inconsistent for a registration that is not iSCSI's, for an unknown port, for a table that contradicts
    itself, and if the reservation's holder is one that was left out. (Where all registrants hold, it is enough that
    one of them is known.)
    """
    try:
        placed = _place(table, target, tag_of_port, tuple(dict.fromkeys(hints)))
        return ReservationState(
            sequence=sequence,
            generation=table.generation,
            registrations=tuple(
                Registration(nexus, descriptor.key, descriptor.all_tg_pt) for descriptor, nexus in placed
            ),
            reservation=_reservation(table, placed),
            spc2_holder=spc2_holder,
        )
    except BadInput as error:
        raise Inconsistent(f"the kernel's table of registrations: {error}") from None


def _place(
    table: FullStatus, target: Iqn, tag_of_port: Mapping[int, int], hints: tuple[Nexus, ...]
) -> tuple[tuple[Descriptor, Nexus], ...]:
    """The registrations whose nexus is known, in the table's order."""
    at_port = tuple(_nexus_at_port(each, target, tag_of_port) for each in table.descriptors)
    taken = {nexus for nexus in at_port if nexus is not None}
    left = [nexus for nexus in hints if nexus.target == target and nexus not in taken]
    placed = []
    for descriptor, known in zip(table.descriptors, at_port, strict=True):
        nexus = known or _first_of(descriptor, left)
        if nexus is not None:
            placed.append((descriptor, nexus))
    return tuple(placed)


def _nexus_at_port(descriptor: Descriptor, target: Iqn, tag_of_port: Mapping[int, int]) -> Nexus | None:
    """The nexus that the table itself tells; None for ALL_TG_PT."""
    if descriptor.protocol != ISCSI or descriptor.initiator is None:
        raise Inconsistent(
            f"key {descriptor.key:#x} is registered by protocol {descriptor.protocol}, which is not iSCSI: only"
            " initiators may register; unregister it on this node"
        )
    if descriptor.relative_port is None:
        return None
    tag = tag_of_port.get(descriptor.relative_port)
    if tag is None:
        raise Inconsistent(
            f"{descriptor.initiator} is registered at relative port {descriptor.relative_port}, which no path has"
        )
    return Nexus(descriptor.initiator, descriptor.isid, target, tag)


def _first_of(descriptor: Descriptor, left: list[Nexus]) -> Nexus | None:
    """Take the first hint that is of the descriptor's initiator port out of those that are left."""
    for nexus in left:
        if (nexus.initiator, nexus.isid) == (descriptor.initiator, descriptor.isid):
            left.remove(nexus)
            return nexus
    return None


def _reservation(table: FullStatus, placed: tuple[tuple[Descriptor, Nexus], ...]) -> Reservation | None:
    if not table.holders:
        return None
    if not table.marks_agree:
        marks = sorted({each.type.words for each in table.holders if each.type is not None})
        raise Inconsistent(f"the kernel's table marks {len(table.holders)} holders: {', '.join(marks)}")
    for descriptor, nexus in placed:
        if descriptor.holder and descriptor.type is not None:
            return Reservation(descriptor.type, nexus, descriptor.key)
    holder = table.holders[0]
    raise Inconsistent(
        f"the target port of the reservation's holder, {holder.initiator} with key {holder.key:#x}, is not known yet"
    )
