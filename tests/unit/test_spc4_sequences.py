"""Random sequences of reservation commands: the same again from a seed, readable, and none that LIO dies of."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.spc4.hazards import hazard
from tests.spc4.model import (
    LIO_UNIT,
    SPC4,
    Access,
    Done,
    LogicalUnit,
    Nexus,
    PreemptAndAbort,
    Question,
    Refusal,
    Register,
    State,
    Type,
)
from tests.spc4.sequences import Step, Transcript, next_step, next_step_by_any_book, told_answer

A = Nexus("a", 1)
NEXUSES = tuple(Nexus(initiator, port) for initiator in "ab" for port in (1, 2))
SEEDS = st.integers(0, 2**32)
UNITS = pytest.mark.parametrize("unit", [SPC4, LIO_UNIT], ids=["spc4", "lio"])


@UNITS
@given(seed=SEEDS)
def test_who_holds_alone_shuts_the_others_out(unit: LogicalUnit, seed: int) -> None:
    """In whatever state a sequence ends: at most one may write under a type of one holder, and no stranger ever."""
    random, state = Random(seed), State()
    for _ in range(30):
        step = next_step(random, NEXUSES, [state])
        state, _ = unit.apply(state, step.nexus, step.command)
    if state.held is None:
        return
    writers = {each for each in NEXUSES if unit.apply(state, each, Access.WRITE)[1] == Done()}
    registered = {each.nexus for each in state.registrations}
    assert writers == (registered if state.held.type.open_to_registrants else {state.held.by})


@given(seed=SEEDS)
def test_a_sequence_is_the_same_again_and_no_hazard(seed: int) -> None:
    """The seed makes the sequence, and none of its steps is one that stock LIO does not survive."""

    def made() -> list[str]:
        random, state, lines = Random(seed), State(), []
        for _ in range(20):
            step = next_step(random, NEXUSES, [state])
            assert hazard(state, step.nexus, step.command) is None
            state, answer = LIO_UNIT.apply(state, step.nexus, step.command)
            lines.append(f"{step} -> {told_answer(answer)}")
        return lines

    assert made() == made()


@given(seed=SEEDS)
def test_an_unknown_book_changes_nothing_seen(seed: int) -> None:
    """A step chosen without knowing whom LIO has in its book does the same whoever it is."""
    random, state = Random(seed), State()
    for _ in range(20):
        step = next_step_by_any_book(random, NEXUSES, state)
        outcomes = [LIO_UNIT.apply(each, step.nexus, step.command) for each in state.books]
        assert len({(after.registrations, answer) for after, answer in outcomes}) == 1
        state = outcomes[0][0]


def test_most_steps_are_done() -> None:
    """Of a thousand more than half are answered GOOD; every kind of command and of reservation is among them."""
    random, state, answers = Random(1), State(), []
    kinds, types = set(), set()
    for _ in range(1000):
        step = next_step(random, NEXUSES, [state])
        state, answer = LIO_UNIT.apply(state, step.nexus, step.command)
        answers.append(answer)
        kinds.add(step.command if isinstance(step.command, Question | Access) else type(step.command))
        types.add(state.held and state.held.type)
    assert sum(isinstance(each, Done) for each in answers) > 500
    assert len(kinds) == 12
    assert types == {None, *Type}


def test_a_transcript_is_short_and_readable() -> None:
    """One line a step: who, what, and the answer."""
    transcript, state = Transcript(), State()
    commands = (Register(0, 0xA1, all_ports=True), PreemptAndAbort(0xB2, 0xA1, Type(3)), *Question, Access.WRITE)
    for command in commands:
        state, answer = LIO_UNIT.apply(state, A, command)
        transcript.answered(Step(A, command), answer)
    transcript.answered(Step(A, Access.READ), Refusal.NOT_READY, "told 2a/03")
    assert str(transcript).splitlines() == [
        "  1 a@1 REGISTER key=0x0 new=0xa1 ALL_TG_PT -> GOOD",
        "  2 a@1 PREEMPT AND ABORT key=0xb2 of=0xa1 type=3 -> RESERVATION CONFLICT",
        "  3 a@1 READ KEYS -> GOOD gen=2 keys 0xa1 0xa1",
        "  4 a@1 READ RESERVATION -> GOOD gen=2 nothing reserved",
        "  5 a@1 READ FULL STATUS -> GOOD gen=2 a@all=0xa1, a@all=0xa1",
        "  6 a@1 WRITE -> GOOD",
        "  7 a@1 READ -> NOT READY; told 2a/03",
    ]


def test_a_long_transcript_shows_its_beginning_and_its_end() -> None:
    """The first line has the seed, the last ones what failed; what is between is counted."""
    transcript = Transcript(["seed 7"])
    for number in range(100):
        transcript.note(number)
    lines = str(transcript).splitlines()
    assert lines[:2] == ["seed 7", "    ... 40 lines"]
    assert (len(lines), lines[-1]) == (62, "101 99")
