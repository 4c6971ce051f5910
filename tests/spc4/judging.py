"""A real target's answers held against the model, and what became of a change that was not answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from tests.spc4.model import LIO_UNIT, Answer, Attention, Done, FullStatus, Keys, Question, Reservation, State
from tests.spc4.sequences import Step, told_answer
from tests.spc4.wire import Reply, Unanswered, Unexpected

LOOKS = 3
"""How often a target is asked what there is, until it answers."""

OF_RESERVATIONS = frozenset(each.value for each in Attention)


@dataclass(frozen=True)
class Heard:
    """One answer, and the unit attentions that came before it."""

    reply: Reply
    attentions: tuple[tuple[int, int], ...]


class Asked(Protocol):
    """A target that answers one command at a time."""

    def ask(self, step: Step) -> Heard:
        """Have one command sent and answered."""
        ...


class Mismatch(AssertionError):
    """A target answered what it may not; the message is the transcript."""


class Judge:
    """Holds one target's answers against the model; `state` is what the target must be in.

    PRGENERATION is compared by what it is raised, once it was read: a target that was built anew begins anew.
    """

    def __init__(self, who: str) -> None:
        self.who, self.state = who, State()
        self._ahead: int | None = None

    def built_anew(self) -> None:
        """Let the next answer say where PRGENERATION is."""
        self._ahead = None

    def judge(self, step: Step, heard: Heard) -> str:
        """Take an answer for what the model says; what is wrong with it, or nothing."""
        before = self.state
        self.state, expected = LIO_UNIT.apply(before, step.nexus, step.command)
        wrong = self._untold(step, before, heard.attentions)
        if isinstance(heard.reply, Unanswered | Unexpected):
            return f"{self.who}: {heard.reply}, and the model says {told_answer(expected)}"
        answer = self._leveled(heard.reply)
        if answer != expected:
            wrong = f"{self.who} answers {told_answer(answer)}, and the model says {told_answer(expected)}"
        return wrong

    def _untold(self, step: Step, before: State, attentions: tuple[tuple[int, int], ...]) -> str:
        """A unit attention about reservations comes only where one is due; it may be lost with the target's memory."""
        due = {what.value for nexus, what in before.attentions if nexus == step.nexus}
        wrong = (set(attentions) & OF_RESERVATIONS) - due
        return f"{self.who} tells {sorted(wrong)}, and due is {sorted(due)}" if wrong else ""

    def _leveled(self, answer: Answer) -> Answer:
        """The answer with the model's PRGENERATION, if it is as far ahead as it was."""
        if not isinstance(answer, Done) or answer.data is None:
            return answer
        if self._ahead is None:
            self._ahead = answer.data.generation - self.state.generation
        return Done(_with_generation(answer.data, answer.data.generation - self._ahead))


def _with_generation(data: Keys | Reservation | FullStatus, generation: int) -> Keys | Reservation | FullStatus:
    return replace(data, generation=generation)


def resolved(target: Asked, judge: Judge, step: Step) -> bool:
    """Whether a change that was not answered was done, by what is registered now; Mismatch if neither can be."""
    before = judge.state.told(step.nexus)
    after, answer = LIO_UNIT.apply(judge.state, step.nexus, step.command)
    look = Step(step.nexus, Question.READ_FULL_STATUS)
    reply: Reply = Unanswered("")
    for _ in range(LOOKS):
        reply = target.ask(look).reply
        if not isinstance(reply, Unanswered):
            break
    judge.built_anew()
    if not isinstance(reply, Done) or not isinstance(reply.data, FullStatus):
        raise Mismatch(f"{step} was not answered, and then {look} was: {reply}")
    for state in (before, after) if isinstance(answer, Done) else (before,):
        _, expected = LIO_UNIT.apply(state, step.nexus, Question.READ_FULL_STATUS)
        assert isinstance(expected, Done)
        assert isinstance(expected.data, FullStatus)
        if expected.data.rows == reply.data.rows:
            judge.state = state
            return state is after
    raise Mismatch(f"{step} was not answered, and what is there is neither without nor with it: {told_answer(reply)}")
