"""SPC-4's persistent reservations of one logical unit: a state and a command in, a state and an answer out. Pure.

Clauses are spc4r37's (5.13, 6.15, 6.16); what media access commands may do is sbc3r36's table 13. One command at a
time: nothing here says what happens to commands that overlap. Registrations are of I_T nexuses; that an initiator
port's name has an ISID is below this: one session an initiator and port.

Rule: a command that is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import TypeAlias

from tests.spc4.deviations import LIO, Deviation


class Type(IntEnum):
    """PERSISTENT RESERVE's TYPE (clause 6.15.3.4), by its code."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8

    @property
    def held_by_all(self) -> bool:
        """Whether every registrant holds it (clause 5.13.10)."""
        return self in (Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)

    @property
    def open_to_registrants(self) -> bool:
        """Whether every registrant may read and write: the registrants-only and all-registrants types."""
        return self >= Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY

    @property
    def open_to_readers(self) -> bool:
        """Whether everybody may read: the write-exclusive types."""
        return self in (
            Type.WRITE_EXCLUSIVE,
            Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
            Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
        )


@dataclass(frozen=True, order=True)
class Nexus:
    """An initiator by its name, at the target port of that number."""

    initiator: str
    port: int

    def __str__(self) -> str:
        return f"{self.initiator}@{self.port}"


@dataclass(frozen=True)
class Registration:
    """A nexus's key, and whether it was registered with ALL_TG_PT."""

    nexus: Nexus
    key: int
    all_ports: bool = False


@dataclass(frozen=True)
class Held:
    """A reservation. Where all registrants hold, `by` is nobody to the standard: the one that LIO keeps in its book."""

    type: Type
    by: Nexus


class Attention(Enum):
    """The unit attentions of clause 5.13.11: additional sense code and qualifier."""

    RESERVATIONS_PREEMPTED = (0x2A, 0x03)
    RESERVATIONS_RELEASED = (0x2A, 0x04)
    REGISTRATIONS_PREEMPTED = (0x2A, 0x05)


@dataclass(frozen=True)
class State:
    """Everything there is to know; `attentions` are those that a nexus has not been told yet."""

    registrations: tuple[Registration, ...] = ()
    held: Held | None = None
    generation: int = 0
    attentions: frozenset[tuple[Nexus, Attention]] = frozenset()

    def __post_init__(self) -> None:
        nexuses = [each.nexus for each in self.registrations]
        if len(set(nexuses)) < len(nexuses):
            raise ValueError(f"a nexus is registered twice: {', '.join(map(str, nexuses))}")
        if any(not 0 < each.key < 1 << 64 for each in self.registrations):
            raise ValueError("a key is not 1 to 2**64 - 1")
        if self.held is not None and self.held.by not in nexuses:
            raise ValueError(f"{self.held.by} holds and is not registered")

    def registration(self, nexus: Nexus) -> Registration | None:
        """The nexus's registration."""
        return next((each for each in self.registrations if each.nexus == nexus), None)

    def holds(self, nexus: Nexus) -> bool:
        """Whether the nexus is a reservation holder (clause 5.13.10)."""
        if self.held is None or self.registration(nexus) is None:
            return False
        return self.held.type.held_by_all or self.held.by == nexus

    @property
    def books(self) -> tuple[State, ...]:
        """This with each holder that LIO may have in its book: a gateway that takes over cannot read who it was."""
        if self.held is None or not self.held.type.held_by_all:
            return (self,)
        return tuple(replace(self, held=Held(self.held.type, each.nexus)) for each in self.registrations)

    def with_key(self, key: int) -> frozenset[Nexus]:
        """Who is registered with that key."""
        return frozenset(each.nexus for each in self.registrations if each.key == key)

    def others(self, nexus: Nexus) -> frozenset[Nexus]:
        """Who is registered but that one."""
        return frozenset(each.nexus for each in self.registrations) - {nexus}

    def told(self, nexus: Nexus) -> State:
        """The same after that nexus was told its attentions."""
        return replace(self, attentions=frozenset(each for each in self.attentions if each[0] != nexus))

    def attending(self, nexuses: Iterable[Nexus], what: Attention) -> State:
        """The same with that to tell to these."""
        return replace(self, attentions=self.attentions | {(nexus, what) for nexus in nexuses})

    def counted(self, number: int = 1) -> State:
        """The same with PRGENERATION raised."""
        return replace(self, generation=(self.generation + number) % (1 << 32))

    def without(self, gone: Iterable[Nexus]) -> State:
        """The same without these registrations and without what they held (clause 5.13.11.2.3)."""
        dropped = frozenset(gone)
        left = tuple(each for each in self.registrations if each.nexus not in dropped)
        held = self.held
        if held is not None and held.by in dropped:
            held = replace(held, by=left[0].nexus) if held.type.held_by_all and left else None
        return replace(self, registrations=left, held=held)


@dataclass(frozen=True)
class Register:
    """PERSISTENT RESERVE OUT, REGISTER; `new_key` 0 unregisters."""

    key: int
    new_key: int
    all_ports: bool = False


@dataclass(frozen=True)
class RegisterAndIgnore:
    """PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY."""

    new_key: int
    all_ports: bool = False


@dataclass(frozen=True)
class Reserve:
    """PERSISTENT RESERVE OUT, RESERVE."""

    key: int
    type: Type


@dataclass(frozen=True)
class Release:
    """PERSISTENT RESERVE OUT, RELEASE."""

    key: int
    type: Type


@dataclass(frozen=True)
class Clear:
    """PERSISTENT RESERVE OUT, CLEAR."""

    key: int


@dataclass(frozen=True)
class Preempt:
    """PERSISTENT RESERVE OUT, PREEMPT: of those registered with `victims`."""

    key: int
    victims: int
    type: Type


@dataclass(frozen=True)
class PreemptAndAbort(Preempt):
    """PERSISTENT RESERVE OUT, PREEMPT AND ABORT. What it aborts is not modelled: there is one command at a time."""


class Question(Enum):
    """PERSISTENT RESERVE IN, by its service action."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    READ_FULL_STATUS = 3


class Access(Enum):
    """A command that reads or writes the medium."""

    READ = "read"
    WRITE = "write"


Change: TypeAlias = Register | RegisterAndIgnore | Reserve | Release | Clear | Preempt
Command: TypeAlias = Change | Question | Access


@dataclass(frozen=True)
class Keys:
    """READ KEYS: the keys in ascending order."""

    generation: int
    keys: tuple[int, ...]


@dataclass(frozen=True)
class Reservation:
    """READ RESERVATION: the holder's key, 0 where all registrants hold; no type: nothing is reserved."""

    generation: int
    key: int
    type: Type | None


@dataclass(frozen=True, order=True)
class Row:
    """One registration in READ FULL STATUS. `port` is 0 with ALL_TG_PT, `type` where it does not hold: neither is
    defined then."""

    initiator: str
    port: int
    key: int
    all_ports: bool
    type: int


@dataclass(frozen=True)
class FullStatus:
    """READ FULL STATUS: its rows in ascending order."""

    generation: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Done:
    """GOOD, with what was read."""

    data: Keys | Reservation | FullStatus | None = None


class Refusal(Enum):
    """A command that was not done: RESERVATION CONFLICT, or CHECK CONDITION with sense key, ASC and ASCQ."""

    RESERVATION_CONFLICT = None
    NOT_READY = (0x2, 0x08, 0x00)
    INVALID_FIELD_IN_CDB = (0x5, 0x24, 0x00)
    INVALID_FIELD_IN_PARAMETER_LIST = (0x5, 0x26, 0x00)
    INVALID_RELEASE = (0x5, 0x26, 0x04)


Answer: TypeAlias = Done | Refusal
Outcome: TypeAlias = tuple[State, Answer]
_DONE = Done()
_CONFLICT = Refusal.RESERVATION_CONFLICT


@dataclass(frozen=True)
class LogicalUnit:
    """A device with target ports of these numbers, which deviates from SPC-4 in these ways."""

    ports: tuple[int, ...] = (1, 2)
    deviations: frozenset[Deviation] = field(default=frozenset())

    def apply(self, state: State, nexus: Nexus, command: Command) -> Outcome:
        """What the command leaves behind, and how it is answered once the nexus was told its unit attentions."""
        state = state.told(nexus)
        if isinstance(command, Question):
            return state, Done(_read(state, command))
        if isinstance(command, Access):
            return state, _DONE if _may(state, nexus, command) else _CONFLICT
        changed, answer = self._change(state, nexus, command)
        return (changed if isinstance(answer, Done) else state), answer

    def _change(self, state: State, nexus: Nexus, command: Change) -> Outcome:
        if isinstance(command, Register):
            return self._register(state, nexus, command.key, command)
        if isinstance(command, RegisterAndIgnore):
            return self._register(state, nexus, None, command)
        mine = state.registration(nexus)
        if mine is None:
            return state, self._answer_to_stranger(state, command)
        if isinstance(command, Release) and not state.holds(nexus) and self._does(_NO_KEY):
            return state, _DONE
        return self._with_key(state, nexus, command) if command.key == mine.key else (state, _CONFLICT)

    def _with_key(self, state: State, nexus: Nexus, command: Reserve | Release | Clear | Preempt) -> Outcome:
        match command:
            case Reserve(_, type):
                return _reserve(state, nexus, type)
            case Release(_, type):
                return self._release(state, nexus, type)
            case Clear():
                others = state.others(nexus)
                cleared = state.without({nexus, *others}).attending(others, Attention.RESERVATIONS_PREEMPTED)
                return cleared.counted(), _DONE
            case Preempt():
                return self._preempt(state, nexus, command)

    def _does(self, deviation: Deviation) -> bool:
        return deviation in self.deviations

    def _answer_to_stranger(self, state: State, command: Change) -> Answer:
        """No key is an unregistered nexus's own (clause 6.16.3; table 66 says the same while something is reserved)."""
        if state.held is None and not isinstance(command, Preempt) and self._does(Deviation.STRANGER_IS_NOT_READY):
            return Refusal.NOT_READY
        return _CONFLICT

    # Clause 5.13.7: REGISTER, and REGISTER AND IGNORE EXISTING KEY, which comes here with no key.

    def _register(self, state: State, nexus: Nexus, key: int | None, command: Register | RegisterAndIgnore) -> Outcome:
        mine = state.registration(nexus)
        if mine is None:
            if key:
                return state, _CONFLICT
            return (self._add(state, nexus, command) if command.new_key else state), _DONE
        if key is not None and key != mine.key:
            return state, _CONFLICT
        if mine.all_ports and not command.all_ports and self._does(Deviation.ALL_TG_PT_IS_ASKED_FOR_AGAIN):
            return state, Refusal.INVALID_FIELD_IN_CDB
        if command.new_key:
            changed = {nexus}
            if command.all_ports and not self._does(Deviation.NEW_KEY_IS_OF_ONE_PORT):
                changed |= self._reached(state, nexus, key)
            return _rekey(state, changed, command.new_key).counted(), _DONE
        return self._unregister(state, mine, key, command)

    def _add(self, state: State, nexus: Nexus, command: Register | RegisterAndIgnore) -> State:
        ports = {nexus.port, *self.ports} if command.all_ports else {nexus.port}
        peers = sorted(Nexus(nexus.initiator, port) for port in ports - {nexus.port})
        new = tuple(
            Registration(each, command.new_key, command.all_ports)
            for each in (nexus, *peers)
            if state.registration(each) is None
        )
        added = replace(state, registrations=(*state.registrations, *new))
        return added.counted(len(new) if self._does(Deviation.EVERY_PORT_IS_COUNTED) else 1)

    def _unregister(
        self, state: State, mine: Registration, key: int | None, command: Register | RegisterAndIgnore
    ) -> Outcome:
        if self._peer_that_holds(state, mine):
            return state, _CONFLICT
        gone = {mine.nexus}
        if self._does(Deviation.PEERS_ARE_UNREGISTERED_BY_KEY):
            if mine.all_ports and key is not None:
                gone |= {
                    each.nexus
                    for each in state.registrations
                    if each.all_ports and each.key == key and each.nexus.initiator == mine.nexus.initiator
                }
        elif command.all_ports:
            gone |= self._reached(state, mine.nexus, key)
        left = state.without(gone)
        if left.held is None and state.held is not None and state.held.type.open_to_registrants:
            left = left.attending(left.others(mine.nexus), Attention.RESERVATIONS_RELEASED)
        return (left if self._does(Deviation.UNREGISTERING_IS_NOT_COUNTED) else left.counted()), _DONE

    def _peer_that_holds(self, state: State, mine: Registration) -> bool:
        if state.held is None or not mine.all_ports or not self._does(Deviation.PEER_THAT_HOLDS_FORBIDS_UNREGISTERING):
            return False
        by = state.held.by
        return by != mine.nexus and by.initiator == mine.nexus.initiator and by in state.with_key(mine.key)

    def _reached(self, state: State, nexus: Nexus, key: int | None) -> frozenset[Nexus]:
        """The same initiator's other nexuses that would take the command with ALL_TG_PT, each for itself."""
        peers = {Nexus(nexus.initiator, port) for port in self.ports} & state.others(nexus)
        return frozenset(peers if key is None else peers & state.with_key(key))

    # Clause 5.13.11.2.2.

    def _release(self, state: State, nexus: Nexus, type: Type) -> Outcome:
        held = state.held
        if held is None or not state.holds(nexus):
            return state, _DONE
        if held.type is not type:
            conflicts = self._does(Deviation.RELEASE_OF_ANOTHER_TYPE_CONFLICTS)
            return state, _CONFLICT if conflicts else Refusal.INVALID_RELEASE
        released = replace(state, held=None)
        if held.type.open_to_registrants:
            released = released.attending(state.others(nexus), Attention.RESERVATIONS_RELEASED)
        return released, _DONE

    # Clauses 5.13.11.2.4 to 5.13.11.2.6.

    def _preempt(self, state: State, nexus: Nexus, command: Preempt) -> Outcome:
        held = state.held
        everybody = held is not None and held.type.held_by_all
        victims = state.with_key(command.victims)
        if not command.victims:
            if not everybody:
                return state, Refusal.INVALID_FIELD_IN_PARAMETER_LIST
            return _take_over(state, nexus, command.type, state.others(nexus)), _DONE
        if not victims:
            return state, _CONFLICT
        if (
            held is not None
            and held.by in victims
            and (not everybody or self._does(Deviation.BOOK_HOLDER_IS_PREEMPTED))
        ):
            return _take_over(state, nexus, command.type, victims - {nexus}), _DONE
        if everybody and self._does(Deviation.PREEMPTOR_OF_ALL_REGISTRANTS_STAYS):
            victims -= {nexus}
        left = state.without(victims).attending(victims - {nexus}, Attention.REGISTRATIONS_PREEMPTED)
        return left.counted(), _DONE


_NO_KEY = Deviation.RELEASE_OF_NOTHING_NEEDS_NO_KEY
SPC4 = LogicalUnit()
LIO_UNIT = LogicalUnit(deviations=LIO)


def _reserve(state: State, nexus: Nexus, type: Type) -> Outcome:
    """Clause 5.13.9."""
    if state.held is None:
        return replace(state, held=Held(type, nexus)), _DONE
    return state, _DONE if state.holds(nexus) and state.held.type is type else _CONFLICT


def _take_over(state: State, nexus: Nexus, type: Type, victims: frozenset[Nexus]) -> State:
    """The reservation becomes the preempting nexus's, and the victims are registered no more."""
    left = replace(state, held=None).without(victims).attending(victims, Attention.REGISTRATIONS_PREEMPTED)
    if state.held is not None and state.held.type is not type:
        left = left.attending(left.others(nexus), Attention.RESERVATIONS_RELEASED)
    return replace(left, held=Held(type, nexus)).counted()


def _rekey(state: State, nexuses: Iterable[Nexus], key: int) -> State:
    changed = frozenset(nexuses)
    return replace(
        state,
        registrations=tuple(replace(each, key=key) if each.nexus in changed else each for each in state.registrations),
    )


def _may(state: State, nexus: Nexus, access: Access) -> bool:
    """Table 13 of sbc3r36: who may read and write in the presence of a reservation."""
    if state.held is None or state.holds(nexus):
        return True
    if state.registration(nexus) is not None and state.held.type.open_to_registrants:
        return True
    return access is Access.READ and state.held.type.open_to_readers


def _read(state: State, question: Question) -> Keys | Reservation | FullStatus:
    """Clause 6.15: what PERSISTENT RESERVE IN returns; it is allowed to everybody, always (table 65)."""
    held = state.held
    if question is Question.READ_KEYS:
        return Keys(state.generation, tuple(sorted(each.key for each in state.registrations)))
    if question is Question.READ_RESERVATION:
        if held is None:
            return Reservation(state.generation, 0, None)
        (key,) = (each.key for each in state.registrations if each.nexus == held.by)
        return Reservation(state.generation, 0 if held.type.held_by_all else key, held.type)
    rows = (
        Row(
            each.nexus.initiator,
            0 if each.all_ports else each.nexus.port,
            each.key,
            each.all_ports,
            held.type.value if held is not None and state.holds(each.nexus) else 0,
        )
        for each in state.registrations
    )
    return FullStatus(state.generation, tuple(sorted(rows)))
