"""`rbdgate-agent`: the agent (`run`), its guard (`guard`), the guard's last act (`cut`), and LIO's state (`dump`).

`dump` prints all that LIO has on this node as JSON, as targetcli would save it but without secrets: for a bug report.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from agent import journal
from agent.clock import boot_id, boottime, wall_clock
from agent.shutdown import LEAVE_BOUND, machine_is_stopping
from gateway.errors import RbdgateError, Refused
from gateway.runtime import RuntimeDirectory
from gateway.settings import RUNTIME_DIRECTORY, Settings
from gateway.timers import Timers

if TYPE_CHECKING:
    from agent.guard import Guard
    from agent.monitoring.guard_file import GuardFigures
    from agent.trapping import TrapMount
    from agent.watchdog import Feeder
    from gateway.kernel import NodeKernel

CUT_BOUND = 10.0
"""How long the guard's last act may try, in seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the daemons; returns its exit status."""
    parser = argparse.ArgumentParser(prog="rbdgate-agent", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "guard", "cut", "dump"), default="run")
    parser.add_argument("--settings", type=Path, help="the settings file (default: /etc/rbdgate/rbdgate.toml)")
    chosen = parser.parse_args(arguments)
    journal.set_up()
    try:
        if chosen.command == "cut":
            return _cut(chosen.settings)
        if chosen.command == "dump":
            return _dump()
        settings = Settings.load(chosen.settings)
        journal.set_up(str(settings.node))
        runtime = RuntimeDirectory(Path(settings.runtime_directory))
        if chosen.command == "run":
            return _run_agent(settings, runtime)
        return _run_guard(settings, runtime)
    except RbdgateError as error:
        structlog.get_logger("main").error("cannot go on", error=str(error), kind=type(error).__name__)
        return 1


def _run_agent(settings: Settings, runtime: RuntimeDirectory) -> int:
    lock = _only_one(runtime, "agent")
    threading.excepthook = _end_at_once
    from agent.inheritance import take_up  # noqa: PLC0415 - each command imports its own rooms only

    boot = boot_id()
    inheritance = take_up(settings, runtime, boot)
    from agent.assembly import assemble  # noqa: PLC0415 - what is slow to load comes after the first renewal

    with assemble(settings, runtime, boot, inheritance) as cycle:
        signal.signal(signal.SIGTERM, lambda *_: cycle.stop())
        signal.signal(signal.SIGINT, lambda *_: cycle.stop())
        cycle.run()
        if machine_is_stopping():
            cycle.leave("its machine is shutting down", LEAVE_BOUND)
    lock.close()
    os._exit(0)  # nothing may hold the end up, such as a librados that waits for a cluster: the tenure runs meanwhile


def _end_at_once(what: threading.ExceptHookArgs) -> None:
    """A thread that died of a bug leaves an agent that looks alive: end it; its successor touches no session."""
    thread = what.thread.name if what.thread else "?"
    failure = (what.exc_type, what.exc_value, what.exc_traceback)
    try:
        structlog.get_logger("main").error("a thread died; ending the agent", thread=thread, exc_info=failure)
    finally:  # whatever becomes of the log
        os._exit(70)


def _run_guard(settings: Settings, runtime: RuntimeDirectory) -> int:
    from agent.guard import Guard, withdraw_once  # noqa: PLC0415 - each command imports its own rooms only
    from agent.monitoring.guard_file import GuardFigures  # noqa: PLC0415 - as in each of these commands
    from agent.workers import Workers  # noqa: PLC0415 - as in each of these commands
    from gateway.kernel import NodeKernel  # noqa: PLC0415 - as in each of these commands

    lock = _only_one(runtime, "guard-process")
    timers, kernel = settings.timers, NodeKernel(runtime, settings.timers)
    figures = GuardFigures(boottime, wall_clock())
    threading.excepthook = _end_at_once  # a change of reservations that a bug left unanswered stays held
    _unguard_and_cut(runtime, kernel)  # a predecessor is gone, perhaps without; and what waited is about to fail
    guard = Guard(
        boot_id=boot_id(),
        timers=timers,
        runtime=runtime,
        kernel=kernel,
        workers=Workers(slots=8, retry_first=timers.retry_first, retry_last=timers.retry_first, on_done=lambda: None),
        trap=_trap(settings, runtime, kernel, figures),
        figures=figures,
    )
    signal.signal(signal.SIGTERM, lambda *_: guard.stop())
    signal.signal(signal.SIGINT, lambda *_: guard.stop())
    feeder = _feeder(settings.watchdog, guard)
    try:
        guard.run()
    finally:
        withdraw_once(kernel, boottime, CUT_BOUND)  # what ExecStopPost= does, if it can be started
    if feeder is not None:  # a watchdog is left to nobody else
        feeder.stop()
    lock.close()
    return 0


def _trap(settings: Settings, runtime: RuntimeDirectory, kernel: NodeKernel, figures: GuardFigures) -> TrapMount:
    """The trap, with a RADOS client of its own."""
    from agent.guard import withdraw_once  # noqa: PLC0415 - as in each of these commands
    from agent.storage import StorageLink  # noqa: PLC0415 - as in each of these commands
    from agent.trap import Trap  # noqa: PLC0415 - as in each of these commands
    from agent.trapping import NodeExports, Recording, TrapMount  # noqa: PLC0415 - as in each of these commands
    from gateway import lio  # noqa: PLC0415 - as in each of these commands
    from gateway.images.cluster import CephConnection  # noqa: PLC0415 - as in each of these commands

    ceph, hold = settings.ceph, settings.timers.reservation_hold
    link = StorageLink(
        lambda: CephConnection(ceph.conf, ceph.user, ceph.keyring, op_timeout=hold), on_change=lambda: None
    )
    recording = Recording(link, settings.node, runtime, timeout=hold, figures=figures)
    trap = Trap(NodeExports(kernel, runtime), recording.record, hold=hold, figures=figures, restored=recording.restored)
    link.start()
    return TrapMount(
        trap,
        lambda: lio.dbroot() / "pr",
        lio.find_exports,
        recording.compare,
        cut=lambda: withdraw_once(kernel, boottime, CUT_BOUND),
        unguard=runtime.drop_guard_sign,
    )


def _feeder(path: Path | None, guard: Guard) -> Feeder | None:
    """The thread that feeds the watchdog, if the settings name one."""
    from agent.watchdog import Feeder, LinuxWatchdog  # noqa: PLC0415 - as in each of these commands

    if path is None:
        return None
    feeder = Feeder(lambda: LinuxWatchdog(path), signs=guard.signs, silent=guard.silent, clock=boottime)
    feeder.start()
    return feeder


def _unguard_and_cut(runtime: RuntimeDirectory, kernel: NodeKernel) -> None:
    """Have the agent open no path any more, and take all down, also where the sign cannot be taken back."""
    from agent.guard import withdraw_once  # noqa: PLC0415 - as in each of these commands

    try:
        runtime.drop_guard_sign()
    finally:
        withdraw_once(kernel, boottime, CUT_BOUND)


def _cut(settings_file: Path | None) -> int:
    """Cut, whatever the settings file says by now: a misspelt key must not leave portals up with nobody watching."""
    from gateway.kernel import NodeKernel  # noqa: PLC0415 - as in each of these commands

    runtime, unreadable = RuntimeDirectory(RUNTIME_DIRECTORY), None
    try:
        runtime = RuntimeDirectory(Settings.load(settings_file).runtime_directory)
    except RbdgateError as error:
        unreadable = error
    _unguard_and_cut(runtime, NodeKernel(runtime, Timers()))
    if unreadable is not None:
        raise unreadable
    return 0


def _dump() -> int:
    from gateway.lio.dump import dump  # noqa: PLC0415 - rtslib is slow to load, and only this needs it

    json.dump(dump(), sys.stdout, indent=2)
    print()  # noqa: T201 - this is a command's output
    return 0


def _only_one(runtime: RuntimeDirectory, name: str) -> ExitStack:
    """Hold a name for the life of the process, so that a second daemon of the kind on this node refuses to start.

    The lock is one file's, and another settings file may name another directory; the abstract unix socket is the
    network namespace's, which is what the portals are in.
    """
    held = ExitStack()
    runtime.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(runtime.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise Refused(f"an rbdgate {name} runs on this node already; stop it first") from None
    try:
        held.enter_context(socket.socket(socket.AF_UNIX)).bind(f"\0rbdgate-{name}")
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise Refused(
            f"an rbdgate {name} runs on this node already, with another runtime_directory than {runtime.path}; stop it"
            " first (`ss -xlp` has its process under @rbdgate)"
        ) from None
    return held


if __name__ == "__main__":
    sys.exit(main())
