"""Random persistent reservation commands with faults in between: each answer is the model's, and plain LIO's.

What was answered is there afterwards, whatever happened to the gateway; what was not answered is there or is not, and
the sequence goes on with what READ FULL STATUS then says. One command at a time: on User-Mode Linux a PREEMPT or CLEAR
that meets its victim's own command hangs the node for good, which is the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from random import Random

import pytest

from tests.lab_product.conftest import recover
from tests.lab_product.reserving import (
    NEXUSES,
    PLAIN,
    Line,
    Target,
    plain_disk,
    portals_of,
    second_initiator,
    served_image,
)
from tests.lab_product.scene import Scene
from tests.lab_product.waiting import for_seconds, until
from tests.spc4.examples import EXAMPLES
from tests.spc4.judging import Heard, Judge, Mismatch, resolved
from tests.spc4.model import Access, Clear, Done, Question, Refusal, RegisterAndIgnore, Reserve, Type
from tests.spc4.sequences import KEYS, Step, Transcript, next_step, next_step_by_any_book, told_answer
from tests.spc4.wire import Unanswered

IMAGE = "rbd/reserved"
ORACLE = "gw1"  # has the plain disk, and keeps its power
TRIES = 3
"""How often a command that changes nothing is sent until it is answered."""


class Pair:
    """The served image and the plain disk, each with four nexuses and with what it must answer."""

    def __init__(self, scene: Scene, served: Target, plain: Target) -> None:
        self.scene, self._served, self._plain = scene, served, plain

    def begin(self, seed: int) -> Sequence:
        """A new sequence, on two devices with nothing registered."""
        self.clear()
        return Sequence(self.scene, self._served, self._plain, Random(seed), Transcript([f"seed {seed}"]))

    def clear(self) -> None:
        """Leave nothing registered, and nobody anything to be told."""
        for target in (self._served, self._plain):
            for command in (RegisterAndIgnore(1, all_ports=True), Clear(1)):
                heard = target.ask(Step(NEXUSES[0], command))
                assert heard.reply == Done(), f"{target.iqn}: {command} -> {heard}"
            for nexus in NEXUSES:
                target.ask(Step(nexus, Access.READ))


class Sequence:
    """One sequence: steps on both devices, and faults of the served one."""

    def __init__(self, scene: Scene, served: Target, plain: Target, random: Random, transcript: Transcript) -> None:
        self._scene, self._random, self.transcript = scene, random, transcript
        self._served, self._plain = served, plain
        self._judge, self._oracle = Judge("the served image"), Judge("plain LIO")
        self._book_known = True  # where all registrants hold: whether LIO's own idea of a holder is the model's

    def go(self, steps: int) -> None:
        """So many steps, one after the other."""
        for _ in range(steps):
            self._book_known |= len(self._judge.state.books) == 1
            self._take(self._next())

    def follow(self, steps: Iterable[Step]) -> None:
        """These steps, one after the other."""
        for step in steps:
            self._take(step)

    def during(self, fault: Fault) -> None:
        """A fault while something is reserved, one command after the other meanwhile, then a look at everything."""
        self._have_reserved()
        self.transcript.note(f"{fault.__name__} begins")
        strike = fault(self._scene, self._random)
        with ThreadPoolExecutor(1) as apart:
            done = apart.submit(strike)
            while not done.done():
                self._book_known = False
                step = self._next()
                if not isinstance(step.command, Question):  # whether PRGENERATION began anew yet is not known
                    self._take(step)
            kept = done.result()
        self._book_known = False
        self.transcript.note(f"{fault.__name__} is over")
        if not kept:
            self._judge.built_anew()
        for question in (Question.READ_FULL_STATUS, Question.READ_RESERVATION):
            self._take(Step(self._random.choice(NEXUSES), question))
        for nexus in NEXUSES:
            for access in Access:
                self._take(Step(nexus, access))

    def _have_reserved(self) -> None:
        """Have somebody reserve, if nobody does: a fault while there is nothing to lose shows little."""
        if self._judge.state.held is not None:
            return
        nexus = self._random.choice(NEXUSES)
        if self._judge.state.registration(nexus) is None:
            self._take(Step(nexus, RegisterAndIgnore(self._random.choice(KEYS))))
        mine = self._judge.state.registration(nexus)
        assert mine is not None
        self._take(Step(nexus, Reserve(mine.key, self._random.choice(tuple(Type)))))

    def _take(self, step: Step) -> None:
        """One step; what changes nothing is sent anew while it is not answered."""
        for _ in range(TRIES):
            heard = self._served.ask(step)
            if not isinstance(heard.reply, Unanswered):
                return self._answered(step, heard)
            self.transcript.note(f"{step} -> {heard.reply}")
            self._judge.built_anew()
            self._book_known = False
            if not isinstance(step.command, Question | Access):
                return self._resolve(step)
        raise Mismatch(f"{step} was never answered\n{self.transcript}")

    def _answered(self, step: Step, heard: Heard) -> None:
        answer = told_answer(heard.reply) if isinstance(heard.reply, Done | Refusal) else heard.reply
        remarks = (f"told {asc:02x}/{ascq:02x}" for asc, ascq in heard.attentions)
        self.transcript.note("; ".join((f"{step} -> {answer}", *remarks)))
        self._deny(self._judge.judge(step, heard))
        self._do_plainly(step)

    def _resolve(self, step: Step) -> None:
        """Go on with or without a change that was not answered: the plain disk does it too, or does not."""
        try:
            happened = resolved(self._served, self._judge, step)
        except Mismatch as error:
            raise Mismatch(f"{error}\n{self.transcript}") from None
        self.transcript.note(f"... and was {'done' if happened else 'not done'}")
        if happened:
            self._do_plainly(step)

    def _do_plainly(self, step: Step) -> None:
        self._deny(self._oracle.judge(step, self._plain.ask(step)))

    def _deny(self, wrong: str) -> None:
        if wrong:
            raise Mismatch(f"{wrong}\n{self.transcript}")

    def _next(self) -> Step:
        state = self._judge.state
        if self._book_known:
            return next_step(self._random, NEXUSES, [state])
        return next_step_by_any_book(self._random, NEXUSES, state)


Strike = Callable[[], bool]
"""Does something to the gateway that serves the image, and returns when the image is served whole: whether the kernel's
table was left alone."""
Fault = Callable[[Scene, Random], Strike]
"""Finds out what it needs, so that the strike itself comes at once."""


def planned_move(scene: Scene, random: Random) -> Strike:
    """The image goes to another gateway."""
    there = random.choice(scene.others(scene.holder(IMAGE)))

    def strike() -> bool:
        scene.move(IMAGE, there)
        return False

    return strike


def agent_killed(scene: Scene, random: Random) -> Strike:
    """The holder's agent dies, and its successor takes over what is exported."""
    holder = scene.holder(IMAGE)

    def strike() -> bool:
        scene.kill_agent(holder)
        scene.wait_serving(IMAGE, by=holder)
        return True

    return strike


def guard_killed(scene: Scene, random: Random) -> Strike:
    """The holder's guard dies: every portal of the node is cut until the next one has compared the tables."""
    holder = away_from_oracle(scene)
    before = guard_pid(scene, holder)

    def strike() -> bool:
        scene.run(holder, "systemctl", "kill", "--signal=KILL", "--kill-who=main", "rbdgate-guard.service")
        until("a new guard", lambda: guard_pid(scene, holder) not in ("0", before), within=60)
        scene.wait_serving(IMAGE)
        return False

    return strike


def guard_pid(scene: Scene, node: str) -> str:
    """The guard's pid on that node; "0" while there is none."""
    return scene.run(node, "systemctl", "show", "--property=MainPID", "--value", "rbdgate-guard.service").strip()


def power_cut(scene: Scene, random: Random) -> Strike:
    """The holder loses its power, another gateway takes over, and it comes back."""
    holder = away_from_oracle(scene)
    delay = random.random()  # so that it meets another command each time

    def strike() -> bool:
        for_seconds(delay)
        scene.lab.crash(holder)
        scene.wait_taken_over(IMAGE, holder)
        scene.lab.boot(holder)
        scene.wait_live(holder)
        return False

    return strike


def away_from_oracle(scene: Scene) -> str:
    """Who serves the image, once it is another gateway than the one with the plain disk.

    That one keeps its power, and its guard too: the kernel has one place for the texts of all its disks.
    """
    if scene.holder(IMAGE) == ORACLE:
        scene.move(IMAGE, scene.others(ORACLE)[0])
    return scene.holder(IMAGE)


FAULTS: tuple[Fault, ...] = (planned_move, agent_killed, guard_killed, power_cut)


@pytest.fixture(scope="module")
def pair(scene: Scene) -> Iterator[Pair]:
    """An image and a plain disk, with two initiators on two paths of each."""
    scene.front = ORACLE
    with (
        second_initiator(scene),
        served_image(scene, IMAGE) as image,
        plain_disk(scene, ORACLE) as plain,
        closing(Line(scene)) as line,
    ):
        portals = portals_of(image)
        with Target(scene, line, image["iqn"], portals) as served, Target(scene, line, PLAIN, plain) as beside:
            pair = Pair(scene, served, beside)
            yield pair
            pair.clear()


def sequence(pair: Pair, seed: int, faults: tuple[Fault, ...], steps: int) -> None:
    """A sequence with each of the faults after so many steps; afterwards every gateway is whole."""
    running = pair.begin(seed)
    try:
        for fault in faults:
            running.go(steps)
            running.during(fault)
        running.go(steps)
    finally:
        if faults:
            recover(pair.scene)


def test_without_faults_every_answer_is_the_models(pair: Pair) -> None:
    """Hundreds of commands of two initiators on two paths: the served image answers as LIO does, and LIO as listed."""
    sequence(pair, 1, (), 500)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_every_answer_holds_through_faults(pair: Pair) -> None:
    """A move, the death of the agent and of the guard, and a power cut: keys, holder, type and access stay exact."""
    sequence(pair, 2, FAULTS, 8)


def test_lio_deviates_as_is_listed(pair: Pair) -> None:
    """The shortest sequence for each listed difference: the served image and plain LIO both do what LIO does there."""
    for number, example in enumerate(EXAMPLES.values()):
        running = pair.begin(number)
        reader = Step(NEXUSES[0], Question.READ_KEYS)
        running.follow((reader, *example.before, example.then, reader, Step(NEXUSES[0], Question.READ_FULL_STATUS)))


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(10, 14))
def test_many_sequences_hold_through_many_faults(pair: Pair, seed: int) -> None:
    """Longer ones, with every fault three times in an order of the seed's own."""
    faults = list(FAULTS * 3)
    Random(seed).shuffle(faults)
    sequence(pair, seed, tuple(faults), 15)
