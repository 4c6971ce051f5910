"""Random sequences of persistent reservation commands, and how they are told.

One command at a time, each chosen with an eye on the state, so that most of them do something: a sequence of blindly
chosen keys is a sequence of conflicts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.spc4.hazards import hazard
from tests.spc4.model import (
    LIO_UNIT,
    Access,
    Answer,
    Clear,
    Command,
    FullStatus,
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

KEYS = (0xA1, 0xB2, 0xC3, 0xD4)
"""Few, so that nexuses often share one."""


@dataclass(frozen=True)
class Step:
    """One command of one nexus."""

    nexus: Nexus
    command: Command

    def __str__(self) -> str:
        return f"{self.nexus} {told(self.command)}"


def next_step(random: Random, nexuses: Sequence[Nexus], states: Collection[State]) -> Step:
    """What comes next if the state is one of these: a step that is no hazard to LIO in any of them."""
    state = min(states, key=repr)
    while True:
        nexus = random.choice(nexuses)
        step = Step(nexus, _command(random, state, nexus))
        if all(hazard(each, nexus, step.command) is None for each in states):
            return step


def next_step_by_any_book(random: Random, nexuses: Sequence[Nexus], state: State) -> Step:
    """What comes next if it is not known whom LIO has in its book: a step that does the same whoever it is."""
    while True:
        step = next_step(random, nexuses, state.books)
        if len({_seen(each, step) for each in state.books}) == 1:
            return step


def _seen(state: State, step: Step) -> tuple[object, ...]:
    """What an initiator can see of the step's outcome."""
    after, answer = LIO_UNIT.apply(state, step.nexus, step.command)
    return after.registrations, after.held and after.held.type, after.attentions, after.generation, answer


def _command(random: Random, state: State, nexus: Nexus) -> Command:
    mine = state.registration(nexus)
    kind = random.random()
    if kind < 0.2:
        return random.choice(tuple(Question))
    if kind < 0.4:
        return random.choice(tuple(Access))
    if mine is None and kind < 0.85:
        return _registering(random, 0)
    return _changing(random, state, mine)


def _registering(random: Random, key: int) -> Command:
    all_ports = random.random() < 0.15
    if random.random() < 0.3:
        return RegisterAndIgnore(random.choice(KEYS), all_ports)
    return Register(key, random.choice(KEYS), all_ports)


def _changing(random: Random, state: State, mine: Registration | None) -> Command:
    """A change by a nexus with its own key; now and then with another one."""
    key = mine.key if mine is not None and random.random() < 0.9 else random.choice((0, *KEYS))
    held = state.held.type if state.held is not None and random.random() < 0.8 else random.choice(tuple(Type))
    kind = random.random()
    if kind < 0.3:
        return Reserve(key, random.choice(tuple(Type)))
    if kind < 0.5:
        return Release(key, held)
    if kind < 0.75:
        victims = random.choice((0, *KEYS, *(each.key for each in state.registrations)))
        return random.choice((Preempt, PreemptAndAbort))(key, victims, random.choice(tuple(Type)))
    all_ports = mine is not None and mine.all_ports and random.random() < 0.8
    if kind < 0.83:
        return Register(key, 0, all_ports) if random.random() < 0.7 else RegisterAndIgnore(0, all_ports)
    if kind < 0.95:
        return Register(key, random.choice(KEYS), all_ports)
    return Clear(key)


def told(command: Command) -> str:
    """The command in a few words."""
    match command:
        case Register(key, new_key, all_ports):
            return f"REGISTER key={key:#x} new={new_key:#x}{_all(all_ports)}"
        case RegisterAndIgnore(new_key, all_ports):
            return f"REGISTER AND IGNORE new={new_key:#x}{_all(all_ports)}"
        case Reserve(key, type):
            return f"RESERVE key={key:#x} type={type}"
        case Release(key, type):
            return f"RELEASE key={key:#x} type={type}"
        case Clear(key):
            return f"CLEAR key={key:#x}"
        case Preempt(key, victims, type):
            abort = " AND ABORT" if isinstance(command, PreemptAndAbort) else ""
            return f"PREEMPT{abort} key={key:#x} of={victims:#x} type={type}"
        case Question() | Access():
            return command.name.replace("_", " ")


def _all(all_ports: bool) -> str:
    return " ALL_TG_PT" if all_ports else ""


def told_answer(answer: Answer) -> str:
    """The answer in a few words."""
    if isinstance(answer, Refusal):
        return answer.name.replace("_", " ")
    match answer.data:
        case None:
            return "GOOD"
        case Keys(generation, keys):
            return f"GOOD gen={generation} keys {' '.join(f'{key:#x}' for key in keys) or 'none'}"
        case Reservation(generation, _, None):
            return f"GOOD gen={generation} nothing reserved"
        case Reservation(generation, key, type):
            return f"GOOD gen={generation} key={key:#x} type={type}"
        case FullStatus(generation, rows):
            shown = (
                f"{row.initiator}@{row.port or 'all'}={row.key:#x}{f' holds {row.type}' if row.type else ''}"
                for row in rows
            )
            return f"GOOD gen={generation} {', '.join(shown) or 'nobody'}"


SHOWN = 60
"""How many of its last lines a transcript shows, after its first."""


@dataclass
class Transcript:
    """What was done and answered, a line a step."""

    lines: list[str] = field(default_factory=list)

    def note(self, what: object) -> None:
        """Put a line on record."""
        self.lines.append(f"{len(self.lines) + 1:3} {what}")

    def answered(self, step: Step, answer: Answer, *remarks: str) -> None:
        """Put a step and its answer on record."""
        self.note("; ".join((f"{step} -> {told_answer(answer)}", *remarks)))

    def __str__(self) -> str:
        left_out = len(self.lines) - 1 - SHOWN
        return "\n".join(
            [*self.lines[:1], f"    ... {left_out} lines", *self.lines[-SHOWN:]] if left_out > 0 else self.lines
        )
