"""For each of LIO's differences the shortest sequence that shows it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.spc4.deviations import Deviation
from tests.spc4.model import Nexus, Preempt, Register, RegisterAndIgnore, Release, Reserve, Type
from tests.spc4.sequences import Step

A, A2, B = Nexus("a", 1), Nexus("a", 2), Nexus("b", 1)
ONE, TWO, OTHER = 0xA1, 0xB2, 0xC3
WE, EA, WE_AR = Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS, Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS


@dataclass(frozen=True)
class Example:
    """Steps that are all answered GOOD, from nothing registered, and the one that LIO does otherwise."""

    before: tuple[Step, ...]
    then: Step


REGISTERED = Step(A, Register(0, ONE))
EVERYWHERE = Step(A, Register(0, ONE, all_ports=True))
ALL_HOLD = (REGISTERED, Step(B, Register(0, TWO)), Step(A, Reserve(ONE, WE_AR)))

EXAMPLES = {
    Deviation.STRANGER_IS_NOT_READY: Example((), Step(A, Reserve(ONE, WE))),
    Deviation.RELEASE_OF_NOTHING_NEEDS_NO_KEY: Example((REGISTERED,), Step(A, Release(OTHER, WE))),
    Deviation.RELEASE_OF_ANOTHER_TYPE_CONFLICTS: Example(
        (REGISTERED, Step(A, Reserve(ONE, WE))), Step(A, Release(ONE, EA))
    ),
    Deviation.UNREGISTERING_IS_NOT_COUNTED: Example((REGISTERED,), Step(A, Register(ONE, 0))),
    Deviation.EVERY_PORT_IS_COUNTED: Example((), EVERYWHERE),
    Deviation.ALL_TG_PT_IS_ASKED_FOR_AGAIN: Example((EVERYWHERE,), Step(A, Register(ONE, TWO))),
    Deviation.NEW_KEY_IS_OF_ONE_PORT: Example((EVERYWHERE,), Step(A, Register(ONE, TWO, all_ports=True))),
    Deviation.PEERS_ARE_UNREGISTERED_BY_KEY: Example((EVERYWHERE,), Step(A, RegisterAndIgnore(0, all_ports=True))),
    Deviation.PEER_THAT_HOLDS_FORBIDS_UNREGISTERING: Example(
        (EVERYWHERE, Step(A2, Reserve(ONE, WE))), Step(A, Register(ONE, 0, all_ports=True))
    ),
    Deviation.BOOK_HOLDER_IS_PREEMPTED: Example(ALL_HOLD, Step(B, Preempt(TWO, ONE, EA))),
    Deviation.PREEMPTOR_OF_ALL_REGISTRANTS_STAYS: Example(ALL_HOLD, Step(B, Preempt(TWO, TWO, EA))),
}
