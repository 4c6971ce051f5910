"""The model of persistent reservations answers as SPC-4's tables say, and LIO's differences are those that it names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.spc4.deviations import LIO, Deviation
from tests.spc4.examples import EXAMPLES
from tests.spc4.hazards import hazard
from tests.spc4.model import (
    LIO_UNIT,
    SPC4,
    Access,
    Answer,
    Attention,
    Clear,
    Command,
    Done,
    FullStatus,
    Held,
    Keys,
    LogicalUnit,
    Nexus,
    Preempt,
    PreemptAndAbort,
    Question,
    Refusal,
    Register,
    RegisterAndIgnore,
    Registration,
    Release,
    Reservation,
    Reserve,
    Row,
    State,
    Type,
)

A, B, C = Nexus("a", 1), Nexus("b", 1), Nexus("c", 1)
A2, B2 = Nexus("a", 2), Nexus("b", 2)
NEXUSES = (A, B, A2, B2)
GOOD, CONFLICT = Done(), Refusal.RESERVATION_CONFLICT
WE, EA = Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS
WE_RO, EA_RO = Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
WE_AR, EA_AR = Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
UNITS = pytest.mark.parametrize("unit", [SPC4, LIO_UNIT], ids=["spc4", "lio"])


def table(*registered: tuple[Nexus, int], held: tuple[Type, Nexus] | None = None) -> State:
    """A state with these keys and that reservation."""
    registrations = tuple(Registration(nexus, key) for nexus, key in registered)
    return State(registrations, Held(*held) if held else None, generation=10)


def after(unit: LogicalUnit, *steps: tuple[Nexus, Command], state: State | None = None) -> State:
    """The state after these commands, each of which is done."""
    state = state or State()
    for nexus, command in steps:
        state, answer = unit.apply(state, nexus, command)
        assert isinstance(answer, Done), (nexus, command, answer)
    return state


# sbc3r36 table 13, READ and WRITE; the three are the holder, a registrant (who holds too where all do), a stranger.
MAY = """
    type   holder  registrant  stranger
    none   rw      rw          rw
    1      rw      r-          r-
    3      rw      --          --
    5      rw      rw          r-
    6      rw      rw          --
    7      rw      rw          r-
    8      rw      rw          --
"""


@UNITS
@pytest.mark.parametrize("line", MAY.split("\n")[2:-1], ids=lambda line: line.split()[0])
def test_who_may_read_and_write(unit: LogicalUnit, line: str) -> None:
    """Under each type, the holder, a registrant and a stranger are let in exactly as the standard's table says."""
    type, *allowed = line.split()
    state = table((A, 1), (B, 2), held=None if type == "none" else (Type(int(type)), A))
    for nexus, letters in zip((A, B, C), allowed, strict=True):
        for access, letter in zip((Access.READ, Access.WRITE), letters, strict=True):
            assert unit.apply(state, nexus, access)[1] == (CONFLICT if letter == "-" else GOOD), (nexus, access)


# spc4r37 table 66: PERSISTENT RESERVE OUT in the presence of a reservation, from others than its holder.
ALLOWED = """
    clear    allowed  conflict
    preempt  allowed  conflict
    register allowed  allowed
    ignore   allowed  allowed
    release  allowed  conflict
    reserve  conflict conflict
"""


@UNITS
@pytest.mark.parametrize("held", [WE, EA, WE_RO, EA_RO])
@pytest.mark.parametrize("line", ALLOWED.split("\n")[1:-1], ids=lambda line: line.split()[0])
def test_changes_in_the_presence_of_a_reservation(unit: LogicalUnit, line: str, held: Type) -> None:
    """A registrant and a stranger may change what the standard's table lets them change."""
    what, *expected = line.split()
    state = table((A, 1), (B, 2), held=(held, A))
    for nexus, key, word in zip((B, C), (2, 0), expected, strict=True):
        commands: dict[str, Command] = {
            "clear": Clear(key),
            "preempt": Preempt(key, 1, WE),
            "register": Register(key, 5),
            "ignore": RegisterAndIgnore(5),
            "release": Release(key, held),
            "reserve": Reserve(key, held),
        }
        assert unit.apply(state, nexus, commands[what])[1] == (GOOD if word == "allowed" else CONFLICT), nexus


@UNITS
@pytest.mark.parametrize(
    ("registered", "command", "answer", "key"),
    [
        (0, Register(0, 5), GOOD, 5),
        (0, Register(0, 0), GOOD, 0),
        (0, Register(7, 5), CONFLICT, 0),
        (0, RegisterAndIgnore(5), GOOD, 5),
        (0, RegisterAndIgnore(0), GOOD, 0),
        (7, Register(7, 5), GOOD, 5),
        (7, Register(7, 0), GOOD, 0),
        (7, Register(6, 5), CONFLICT, 7),
        (7, Register(0, 5), CONFLICT, 7),
        (7, RegisterAndIgnore(5), GOOD, 5),
        (7, RegisterAndIgnore(0), GOOD, 0),
    ],
)
def test_registering(unit: LogicalUnit, registered: int, command: Command, answer: Answer, key: int) -> None:
    """REGISTER and REGISTER AND IGNORE EXISTING KEY do what clause 5.13.7's table says."""
    before = table(*([(A, registered)] if registered else []))
    state, answered = unit.apply(before, A, command)
    assert answered == answer
    mine = state.registration(A)
    assert (mine.key if mine else 0) == key


@UNITS
def test_the_holder_reserves_again(unit: LogicalUnit) -> None:
    """The same type is GOOD and changes nothing, another type conflicts; where all hold, every registrant may ask."""
    state = table((A, 1), (B, 2), held=(WE, A))
    assert unit.apply(state, A, Reserve(1, WE)) == (state, GOOD)
    assert unit.apply(state, A, Reserve(1, EA)) == (state, CONFLICT)
    assert unit.apply(state, B, Reserve(2, WE)) == (state, CONFLICT)
    everybody = table((A, 1), (B, 2), held=(WE_AR, A))
    assert unit.apply(everybody, B, Reserve(2, WE_AR)) == (everybody, GOOD)
    assert unit.apply(everybody, B, Reserve(2, EA_AR)) == (everybody, CONFLICT)


@UNITS
@pytest.mark.parametrize("type", list(Type))
def test_releasing(unit: LogicalUnit, type: Type) -> None:
    """A holder's RELEASE ends it, and the other registrants are told if they had access by it; nothing is counted."""
    state = table((A, 1), (B, 2), held=(type, A))
    released, answer = unit.apply(state, A, Release(1, type))
    assert (answer, released.held, released.generation) == (GOOD, None, 10)
    told_to = {(B, Attention.RESERVATIONS_RELEASED)} if type.open_to_registrants else set()
    assert released.attentions == told_to
    unchanged, answer = unit.apply(state, B, Release(2, type))
    if type.held_by_all:
        assert (answer, unchanged.held) == (GOOD, None)
    else:
        assert (answer, unchanged) == (GOOD, state)


@UNITS
@pytest.mark.parametrize("type", list(Type))
def test_unregistering_the_holder(unit: LogicalUnit, type: Type) -> None:
    """The reservation goes with its holder, with the last one where all hold; registrants only are told."""
    state = after(unit, (A, Register(1, 0)), state=table((A, 1), (B, 2), held=(type, A)))
    assert (state.held is not None) == type.held_by_all
    assert bool(state.attentions) == (type in (WE_RO, EA_RO))
    assert after(unit, (B, Register(2, 0)), state=state).held is None


@UNITS
def test_clearing(unit: LogicalUnit) -> None:
    """CLEAR takes everything, and everybody else registered is told."""
    state = after(unit, (B, Clear(2)), state=table((A, 1), (B, 2), (A2, 2), held=(EA, A)))
    assert state == State((), None, 11, frozenset((each, Attention.RESERVATIONS_PREEMPTED) for each in (A, A2)))


@UNITS
@pytest.mark.parametrize("preempt", [Preempt, PreemptAndAbort])
def test_preempting_the_holder(unit: LogicalUnit, preempt: type[Preempt]) -> None:
    """All with the holder's key go, the preemptor holds with its own type, and who stays is told of another type."""
    before = table((A, 1), (A2, 1), (B, 2), (B2, 3), held=(WE, A))
    state = after(unit, (B, preempt(2, 1, EA)), state=before)
    assert state.held == Held(EA, B)
    assert state.others(B) == {B2}
    assert state.attentions == {
        (A, Attention.REGISTRATIONS_PREEMPTED),
        (A2, Attention.REGISTRATIONS_PREEMPTED),
        (B2, Attention.RESERVATIONS_RELEASED),
    }
    same_type = after(unit, (B, preempt(2, 1, WE)), state=before)
    assert {nexus for nexus, _ in same_type.attentions} == {A, A2}
    assert state.generation == same_type.generation == 11


@UNITS
def test_preempting_others(unit: LogicalUnit) -> None:
    """The reservation stays, whoever else has the key goes and is told; a key of nobody conflicts, 0 is invalid."""
    before = table((A, 1), (B, 2), (A2, 3), (B2, 3), held=(WE, A))
    state = after(unit, (B, Preempt(2, 3, EA)), state=before)
    assert state.held == Held(WE, A)
    assert state.attentions == {(each, Attention.REGISTRATIONS_PREEMPTED) for each in (A2, B2)}
    assert unit.apply(before, B, Preempt(2, 9, EA)) == (before, CONFLICT)
    assert unit.apply(before, B, Preempt(2, 0, EA)) == (before, Refusal.INVALID_FIELD_IN_PARAMETER_LIST)
    assert unit.apply(before, B, Preempt(1, 3, EA)) == (before, CONFLICT)


@UNITS
def test_the_holder_preempts_itself(unit: LogicalUnit) -> None:
    """It keeps its registration and gets the new type; others with its key go."""
    state = after(unit, (A, Preempt(1, 1, EA_RO)), state=table((A, 1), (A2, 1), (B, 2), held=(WE, A)))
    assert state.held == Held(EA_RO, A)
    assert state.others(A) == {B}


@UNITS
def test_preempting_all_registrants(unit: LogicalUnit) -> None:
    """With key 0 the preemptor alone is left and holds; with a key, only who has it goes."""
    before = table((A, 1), (B, 2), (B2, 3), held=(WE_AR, A))
    alone = after(unit, (B, PreemptAndAbort(2, 0, EA)), state=before)
    assert (alone.held, alone.others(B)) == (Held(EA, B), frozenset())
    fewer = after(unit, (B, Preempt(2, 3, EA)), state=before)
    assert fewer.held == Held(WE_AR, A)
    assert fewer.others(B) == {A}


@UNITS
def test_all_target_ports(unit: LogicalUnit) -> None:
    """With ALL_TG_PT every port of the initiator's is registered, and no other initiator's."""
    state = after(unit, (A, Register(0, 5, all_ports=True)))
    assert [(each.nexus, each.key, each.all_ports) for each in state.registrations] == [(A, 5, True), (A2, 5, True)]
    state = after(unit, (A2, Register(5, 0, all_ports=True)), state=state)
    assert state.registrations == ()


@UNITS
def test_what_is_read(unit: LogicalUnit) -> None:
    """PERSISTENT RESERVE IN tells keys, holder and rows; where all hold, no key is the holder's."""
    state = replace(
        table((B, 2), (A, 1), held=(EA, B)),
        registrations=(Registration(B, 2), Registration(A, 1, True), Registration(A2, 1, True)),
    )
    assert unit.apply(state, C, Question.READ_KEYS)[1] == Done(Keys(10, (1, 1, 2)))
    assert unit.apply(state, C, Question.READ_RESERVATION)[1] == Done(Reservation(10, 2, EA))
    rows = (Row("a", 0, 1, True, 0), Row("a", 0, 1, True, 0), Row("b", 1, 2, False, 3))
    assert unit.apply(state, C, Question.READ_FULL_STATUS)[1] == Done(FullStatus(10, rows))
    everybody = table((A, 1), (B, 2), held=(WE_AR, A))
    assert unit.apply(everybody, C, Question.READ_RESERVATION)[1] == Done(Reservation(10, 0, WE_AR))
    assert unit.apply(table(), C, Question.READ_RESERVATION)[1] == Done(Reservation(10, 0, None))


def test_a_state_that_contradicts_itself_is_refused() -> None:
    """A nexus registered twice, a key of 0, and a holder that is not registered are no state."""
    for registered, held in ((((A, 1), (A, 2)), None), (((A, 0),), None), (((A, 1),), (WE, B))):
        with pytest.raises(ValueError, match=r"registered|key"):
            table(*registered, held=held)


@pytest.mark.parametrize("deviation", list(Deviation), ids=lambda each: each.name)
def test_each_deviation_is_one(deviation: Deviation) -> None:
    """With that difference alone, and with all of LIO's, the standard's answer or state is another one."""
    example = EXAMPLES[deviation]
    state = after(SPC4, *((step.nexus, step.command) for step in example.before))
    nexus, command = example.then.nexus, example.then.command
    standard = SPC4.apply(state, nexus, command)
    assert LogicalUnit(deviations=frozenset({deviation})).apply(state, nexus, command) != standard
    assert LogicalUnit(deviations=LIO - {deviation}).apply(state, nexus, command) != LIO_UNIT.apply(
        state, nexus, command
    )
    assert hazard(state, nexus, command) is None


KEY = st.sampled_from((0, 1, 2, 3))
TYPES = st.sampled_from(Type)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Register, KEY, KEY, st.booleans()),
    st.builds(RegisterAndIgnore, KEY, st.booleans()),
    st.builds(Reserve, KEY, TYPES),
    st.builds(Release, KEY, TYPES),
    st.builds(Clear, KEY),
    st.builds(Preempt, KEY, KEY, TYPES),
    st.builds(PreemptAndAbort, KEY, KEY, TYPES),
    st.sampled_from(Question),
    st.sampled_from(Access),
)


@UNITS
@given(steps=st.lists(st.tuples(st.sampled_from(NEXUSES), COMMANDS), max_size=30))
def test_any_commands_keep_the_state_whole(unit: LogicalUnit, steps: list[tuple[Nexus, Command]]) -> None:
    """Whatever is sent: a refusal, a question and an access change nothing, and nothing counts downwards."""
    state = State()
    for nexus, command in steps:
        before = state.told(nexus)
        state, answer = unit.apply(state, nexus, command)
        if isinstance(answer, Refusal) or isinstance(command, Question | Access):
            assert state == before
        assert state.generation >= before.generation
        assert (nexus, Attention.RESERVATIONS_PREEMPTED) not in state.attentions
        if isinstance(command, Reserve | Release):
            assert (state.registrations, state.generation) == (before.registrations, before.generation)


@pytest.mark.parametrize(
    ("state", "nexus", "command"),
    [
        (table((A, 1), (B, 2), held=(WE, B)), A, Preempt(1, 1, WE)),
        (table((A, 1), (B, 2), held=(WE_AR, B)), A, Preempt(1, 0, WE)),
        (table((A, 1), (B, 2)), A2, Register(0, 1, all_ports=True)),
        (
            after(LIO_UNIT, (A, Register(0, 1, all_ports=True)), (A, Reserve(1, EA_AR))),
            A,
            Register(1, 0, all_ports=True),
        ),
    ],
)
def test_hazards_are_named(state: State, nexus: Nexus, command: Command) -> None:
    """What makes stock LIO use freed memory, or depend on an order that a takeover changes, is said with the reason."""
    assert hazard(state, nexus, command)
