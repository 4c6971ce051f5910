"""Where LIO answers otherwise than SPC-4 says: each with the clause, the standard's answer, and LIO's.

Clauses are spc4r37's. LIO is Linux 6.1's drivers/target/target_core_pr.c, each function named; what is told here was
read there, and seen on a plain LIO device with the sequences of `examples.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Fact:
    """One difference: where the standard says it, what it says, what LIO does instead, and in which function."""

    clause: str
    standard: str
    lio: str
    function: str


class Deviation(Enum):
    """Every difference that the model knows."""

    STRANGER_IS_NOT_READY = Fact(
        clause="6.16.3",
        standard="RESERVE, RELEASE or CLEAR of an unregistered nexus is answered RESERVATION CONFLICT",
        lio="with nothing reserved it is answered NOT READY, LOGICAL UNIT COMMUNICATION FAILURE",
        function="core_scsi3_pro_reserve, core_scsi3_emulate_pro_release, core_scsi3_emulate_pro_clear",
    )
    RELEASE_OF_NOTHING_NEEDS_NO_KEY = Fact(
        clause="6.16.3",
        standard="a registered nexus's RELEASE with another key than its own is answered RESERVATION CONFLICT",
        lio="unless that nexus holds the reservation, it is answered GOOD",
        function="core_scsi3_emulate_pro_release",
    )
    RELEASE_OF_ANOTHER_TYPE_CONFLICTS = Fact(
        clause="5.13.11.2.2",
        standard="a holder's RELEASE with another type is ILLEGAL REQUEST, INVALID RELEASE OF PERSISTENT RESERVATION",
        lio="it is answered RESERVATION CONFLICT",
        function="core_scsi3_emulate_pro_release",
    )
    UNREGISTERING_IS_NOT_COUNTED = Fact(
        clause="6.15.2",
        standard="every REGISTER that is done raises PRGENERATION",
        lio="one that unregisters does not",
        function="core_scsi3_emulate_pro_register",
    )
    EVERY_PORT_IS_COUNTED = Fact(
        clause="6.15.2",
        standard="a REGISTER with ALL_TG_PT raises PRGENERATION by one",
        lio="it raises it by one for each port that it registers at",
        function="__core_scsi3_add_registration",
    )
    ALL_TG_PT_IS_ASKED_FOR_AGAIN = Fact(
        clause="6.16.3",
        standard="a REGISTER without ALL_TG_PT is one of its own nexus, however that was registered",
        lio="of a nexus registered with ALL_TG_PT it is ILLEGAL REQUEST, INVALID FIELD IN CDB",
        function="core_scsi3_emulate_pro_register",
    )
    NEW_KEY_IS_OF_ONE_PORT = Fact(
        clause="6.16.3",
        standard="a new key with ALL_TG_PT is registered as if it had been asked for at each port",
        lio="the other ports keep the old key",
        function="core_scsi3_emulate_pro_register",
    )
    PEERS_ARE_UNREGISTERED_BY_KEY = Fact(
        clause="6.16.3",
        standard="unregistering with ALL_TG_PT is done as if it had been asked for at each port",
        lio="only the ports whose key is the command's RESERVATION KEY are unregistered, which REGISTER AND IGNORE"
        " EXISTING KEY does not have: it leaves all others",
        function="core_scsi3_emulate_pro_register",
    )
    PEER_THAT_HOLDS_FORBIDS_UNREGISTERING = Fact(
        clause="5.13.11.2.3",
        standard="every registered nexus can be unregistered",
        lio="one registered with ALL_TG_PT cannot while the same initiator holds the reservation at another port with"
        " the same key: RESERVATION CONFLICT (for all registrants, the one holder that LIO keeps in its book counts)",
        function="core_scsi3_check_implicit_release",
    )
    BOOK_HOLDER_IS_PREEMPTED = Fact(
        clause="5.13.11.2.4",
        standard="where all registrants hold, a PREEMPT with a key removes registrations and leaves the reservation",
        lio="with the key of the one holder that LIO keeps in its book it takes the reservation over, with its type",
        function="core_scsi3_pro_preempt",
    )
    PREEMPTOR_OF_ALL_REGISTRANTS_STAYS = Fact(
        clause="5.13.11.2.5",
        standard="a PREEMPT with its own key removes its own registration, unless it holds alone",
        lio="where all registrants hold, its own registration stays",
        function="core_scsi3_pro_preempt",
    )


LIO = frozenset(Deviation)
