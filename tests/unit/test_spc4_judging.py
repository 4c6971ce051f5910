"""Bytes out and answers in are those of the standard, and the judge lets no wrong answer of a target pass."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from tests.spc4.judging import Heard, Judge, Mismatch, resolved
from tests.spc4.model import (
    LIO_UNIT,
    Access,
    Attention,
    Clear,
    Command,
    Done,
    FullStatus,
    Held,
    Keys,
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
    State,
    Type,
)
from tests.spc4.sequences import Step
from tests.spc4.wire import Reply, Unanswered, Unexpected, reply_of, request_of

A, B = Nexus("a", 1), Nexus("b", 2)
TABLE = State((Registration(A, 1), Registration(B, 2)), Held(Type.EXCLUSIVE_ACCESS, A), generation=7)
EA = Type.EXCLUSIVE_ACCESS


@pytest.mark.parametrize(
    ("command", "action", "type", "parameters"),
    [
        (Register(1, 2), 0, 0, (1, 2, 0)),
        (Register(1, 2, all_ports=True), 0, 0, (1, 2, 4)),
        (Reserve(1, EA), 1, 3, (1, 0, 0)),
        (Release(1, EA), 2, 3, (1, 0, 0)),
        (Clear(1), 3, 0, (1, 0, 0)),
        (Preempt(1, 2, EA), 4, 3, (1, 2, 0)),
        (PreemptAndAbort(1, 2, EA), 5, 3, (1, 2, 0)),
        (RegisterAndIgnore(2, all_ports=True), 6, 0, (0, 2, 4)),
    ],
)
def test_a_change_in_bytes(command: Command, action: int, type: int, parameters: tuple[int, int, int]) -> None:
    """Service action, type, the two keys and ALL_TG_PT stand where spc4r37's clause 6.16 has them."""
    request = request_of(command)
    assert request.cdb == bytes([0x5F, action, type, 0, 0, 0, 0, 0, 24, 0])
    assert request.out == struct.pack(">QQ4xB3x", *parameters)


def test_the_first_block_is_read_and_written() -> None:
    """READ and WRITE move one block at address 0, and PERSISTENT RESERVE IN names its service action."""
    assert request_of(Access.READ).cdb == bytes.fromhex("28000000000000000100")
    assert request_of(Access.WRITE).cdb == bytes.fromhex("2a000000000000000100")
    assert [request_of(each).cdb[:2].hex() for each in Question] == ["5e00", "5e01", "5e03"]


def told(**words: Any) -> dict[str, Any]:
    """What the program in the initiator says of a command that was answered GOOD, but for these words."""
    return {"status": 0, "host": 0, "driver": 0, "sense": None, "data": "", "attentions": []} | words


@pytest.mark.parametrize(
    ("command", "said", "reply"),
    [
        (Clear(1), told(), Done()),
        (Clear(1), told(status=0x18), Refusal.RESERVATION_CONFLICT),
        (Clear(1), told(status=2, sense=[2, 8, 0]), Refusal.NOT_READY),
        (Clear(1), told(status=2, sense=[5, 0x26, 4]), Refusal.INVALID_RELEASE),
        (Clear(1), told(status=2, sense=[3, 0x11, 0]), Unexpected("CHECK CONDITION (3, 17, 0)")),
        (Clear(1), told(status=8), Unexpected("status 0x8")),
        (Clear(1), told(host=0x0E), Unanswered("host 0xe, driver 0x0")),
        (Clear(1), {"failed": "gone"}, Unanswered("gone")),
        (Question.READ_KEYS, told(data="00000007 00000010 0000000000000002 0000000000000001"), Done(Keys(7, (1, 2)))),
        (Question.READ_RESERVATION, told(data="00000007 00000000"), Done(Reservation(7, 0, None))),
        (
            Question.READ_RESERVATION,
            told(data="00000007 00000010 0000000000000001 00000000 00 03 0000"),
            Done(Reservation(7, 1, EA)),
        ),
        (Question.READ_FULL_STATUS, told(data="00000007 00000000"), Done(FullStatus(7, ()))),
    ],
)
def test_an_answer_in_the_models_words(command: Command, said: dict[str, Any], reply: Reply) -> None:
    """Status and sense decide; a failed transport is no answer; what nothing here should get is told as it is."""
    assert reply_of(command, said, {}) == reply


def judged(reply: Reply, command: Command, nexus: Nexus = A, told: tuple[tuple[int, int], ...] = ()) -> str:
    """What the judge says of an answer in the state of the table."""
    judge = Judge("it")
    judge.state = TABLE
    return judge.judge(Step(nexus, command), Heard(reply, told))


def test_a_wrong_answer_is_told() -> None:
    """An answer, or a unit attention, that the model has not is a sentence; a right one is none."""
    assert judged(Done(), Reserve(1, EA)) == ""
    assert "RESERVATION CONFLICT" in judged(Refusal.RESERVATION_CONFLICT, Reserve(1, EA))
    assert "GOOD" in judged(Done(), Access.WRITE, B)
    assert "CHECK" in judged(Unexpected("CHECK CONDITION"), Access.WRITE)
    assert "[(42, 3)]" in judged(Done(), Access.WRITE, told=(Attention.RESERVATIONS_PREEMPTED.value,))
    assert judged(Done(), Access.WRITE, told=((0x29, 0x00),)) == ""


def test_the_generation_is_compared_by_what_it_is_raised() -> None:
    """Wherever it begins it must count as the model does, until the target was built anew."""
    judge = Judge("it")
    judge.state = TABLE
    read = Step(A, Question.READ_KEYS)
    assert judge.judge(read, Heard(Done(Keys(100, (1, 2))), ())) == ""
    assert judge.judge(Step(A, Register(1, 1)), Heard(Done(), ())) == ""
    assert judge.judge(read, Heard(Done(Keys(101, (1, 2))), ())) == ""
    assert "gen=7 " in judge.judge(read, Heard(Done(Keys(100, (1, 2))), ()))
    judge.built_anew()
    assert judge.judge(read, Heard(Done(Keys(2, (1, 2))), ())) == ""


class Fixed:
    """A target that is in some state, and tells it."""

    def __init__(self, state: State) -> None:
        self._state = state

    def ask(self, step: Step) -> Heard:
        """The answer in that state."""
        return Heard(LIO_UNIT.apply(self._state, step.nexus, step.command)[1], ())


def test_an_unanswered_change_was_done_or_was_not() -> None:
    """What READ FULL STATUS says decides which; a table that is neither is a mismatch."""
    step = Step(B, Preempt(2, 1, EA))
    after, _ = LIO_UNIT.apply(TABLE, *(step.nexus, step.command))
    for state, done in ((TABLE, False), (after, True)):
        judge = Judge("it")
        judge.state = TABLE
        assert resolved(Fixed(replace(state, generation=0)), judge, step) is done
        assert judge.state.registrations == state.registrations
    judge = Judge("it")
    judge.state = TABLE
    with pytest.raises(Mismatch, match="neither"):
        resolved(Fixed(State()), judge, step)
