"""What no random sequence sends to LIO: the kernel then goes on with memory that it has freed, or has one nexus
registered twice. Pure.

Read in Linux 6.1's drivers/target/target_core_pr.c. Each is an initiator's legal command, and stock LIO's own bug; a
test that met one would say nothing about anybody else.
"""

from __future__ import annotations

from tests.spc4.model import Command, Nexus, Preempt, PreemptAndAbort, Register, RegisterAndIgnore, Registration, State


def hazard(state: State, nexus: Nexus, command: Command) -> str | None:
    """Why the command is not for LIO in that state; None: it may be sent."""
    mine = state.registration(nexus)
    if isinstance(command, Preempt):
        return _of_preempt(state, mine, command) if mine is not None and command.key == mine.key else None
    if isinstance(command, Register | RegisterAndIgnore):
        return _of_register(state, nexus, mine, command)
    return None


def _of_preempt(state: State, mine: Registration, command: Preempt) -> str | None:
    held = state.held
    if held is not None and held.type.held_by_all:
        # core_scsi3_pro_preempt: the first loop frees dev_pr_res_holder, which is then released.
        if command.victims == 0 and held.by != mine.nexus and not isinstance(command, PreemptAndAbort):
            return "PREEMPT of all registrants by another one than LIO's book has"
        return None
    # core_scsi3_pro_preempt: the first loop frees pr_reg_n, whose reference is then put.
    if command.victims == mine.key and (held is None or held.by not in state.with_key(mine.key)):
        return "PREEMPT of the nexus's own registration"
    return None


def _of_register(
    state: State, nexus: Nexus, mine: Registration | None, command: Register | RegisterAndIgnore
) -> str | None:
    peers = [each for each in state.others(nexus) if each.initiator == nexus.initiator]
    if mine is None:
        # __core_scsi3_alloc_registration does not look: READ FULL STATUS then has two rows of one nexus. Nothing is
        # freed, but which of the two counts depends on their order, and that is another one after a restore.
        return "ALL_TG_PT where the initiator is registered already" if command.all_ports and peers else None
    # core_scsi3_check_implicit_release makes the next registration the holder, which may be a peer that is then freed.
    in_book = state.held is not None and state.held.type.held_by_all and state.held.by == nexus
    if command.new_key == 0 and mine.all_ports and in_book and peers:
        return "unregistering with ALL_TG_PT the one of all registrants that LIO's book has"
    return None
