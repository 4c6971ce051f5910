"""`rbdgate-agent`: the agent (`run`), its guard (`guard`), the guard's last act (`cut`), and LIO's state (`dump`).

`dump` prints all that LIO has on this node as JSON, as targetcli would save it but without secrets: for a bug report.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from agent.clock import boot_id, boottime
from agent.shutdown import LEAVE_BOUND, machine_is_stopping
from gateway.errors import RbdgateError, Refused
from gateway.runtime import RuntimeDirectory
from gateway.settings import RUNTIME_DIRECTORY, Settings
from gateway.timers import Timers

if TYPE_CHECKING:
    from agent.guard import Guard
    from agent.watchdog import Feeder

CUT_BOUND = 10.0
"""How long the guard's last act may try, in seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the daemons; returns its exit status."""
    parser = argparse.ArgumentParser(prog="rbdgate-agent", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "guard", "cut", "dump"), default="run")
    parser.add_argument("--settings", type=Path, help="the settings file (default: /etc/rbdgate/rbdgate.toml)")
    chosen = parser.parse_args(arguments)
    _set_up_log()
    try:
        if chosen.command == "cut":
            return _cut(chosen.settings)
        if chosen.command == "dump":
            return _dump()
        settings = Settings.load(chosen.settings)
        runtime = RuntimeDirectory(Path(settings.runtime_directory))
        if chosen.command == "run":
            return _run_agent(settings, runtime)
        return _run_guard(settings, runtime)
    except RbdgateError as error:
        structlog.get_logger("main").error("cannot go on", error=str(error), kind=type(error).__name__)
        return 1


def _set_up_log() -> None:
    """One event a line, `key=value`, on standard error; journald adds the time and the priority stays in `level`."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["level", "event", "image"], drop_missing=True),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _run_agent(settings: Settings, runtime: RuntimeDirectory) -> int:
    lock = _only_one(runtime, "agent")
    threading.excepthook = _end_at_once
    from agent.assembly import assemble  # noqa: PLC0415 - slow imports come after the lease was taken up

    with assemble(settings, runtime, boot_id()) as cycle:
        signal.signal(signal.SIGTERM, lambda *_: cycle.stop())
        signal.signal(signal.SIGINT, lambda *_: cycle.stop())
        cycle.run()
        if machine_is_stopping():
            cycle.leave("its machine is shutting down", LEAVE_BOUND)
    os.close(lock)
    os._exit(0)  # nothing may hold the end up, such as a librados that waits for a cluster: the tenure runs meanwhile


def _end_at_once(what: threading.ExceptHookArgs) -> None:
    """A thread that died of a bug leaves an agent that looks alive: end it; its successor touches no session."""
    thread = what.thread.name if what.thread else "?"
    failure = (what.exc_type, what.exc_value, what.exc_traceback)
    structlog.get_logger("main").error("a thread died; ending the agent", thread=thread, exc_info=failure)
    os._exit(70)


def _run_guard(settings: Settings, runtime: RuntimeDirectory) -> int:
    from agent.guard import Guard, withdraw_once  # noqa: PLC0415 - each command imports its own rooms only
    from agent.workers import Workers  # noqa: PLC0415
    from gateway.kernel import NodeKernel  # noqa: PLC0415

    lock = _only_one(runtime, "guard-process")
    timers, kernel = settings.timers, NodeKernel(runtime.lock, settings.timers)
    guard = Guard(
        boot_id=boot_id(),
        timers=timers,
        runtime=runtime,
        kernel=kernel,
        workers=Workers(slots=8, retry_first=timers.retry_first, retry_last=timers.retry_first, on_done=lambda: None),
    )
    signal.signal(signal.SIGTERM, lambda *_: guard.stop())
    signal.signal(signal.SIGINT, lambda *_: guard.stop())
    feeder = _feeder(settings.watchdog, guard)
    guard.run()
    if feeder is not None:
        withdraw_once(kernel, boottime, CUT_BOUND)  # what ExecStopPost= does; a watchdog is left to nobody else
        feeder.stop()
    os.close(lock)
    return 0


def _feeder(path: Path | None, guard: Guard) -> Feeder | None:
    """The thread that feeds the watchdog, if the settings name one."""
    from agent.watchdog import Feeder, LinuxWatchdog  # noqa: PLC0415

    if path is None:
        return None
    feeder = Feeder(lambda: LinuxWatchdog(path), signs=guard.signs, silent=guard.silent, clock=boottime)
    feeder.start()
    return feeder


def _cut(settings_file: Path | None) -> int:
    """Cut, whatever the settings file says by now: a misspelt key must not leave portals up with nobody watching."""
    from agent.guard import withdraw_once  # noqa: PLC0415
    from gateway.kernel import NodeKernel  # noqa: PLC0415

    runtime, unreadable = RuntimeDirectory(RUNTIME_DIRECTORY), None
    try:
        runtime = RuntimeDirectory(Settings.load(settings_file).runtime_directory)
    except RbdgateError as error:
        unreadable = error
    runtime.drop_guard_sign()
    withdraw_once(NodeKernel(runtime.lock, Timers()), boottime, CUT_BOUND)
    if unreadable is not None:
        raise unreadable
    return 0


def _dump() -> int:
    from gateway.lio.dump import dump  # noqa: PLC0415 - rtslib is slow to load, and only this needs it

    json.dump(dump(), sys.stdout, indent=2)
    print()  # noqa: T201 - this is a command's output
    return 0


def _only_one(runtime: RuntimeDirectory, name: str) -> int:
    """Hold a lock for the life of the process, so that a second daemon of the kind on this node refuses to start."""
    runtime.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(runtime.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(f"an rbdgate {name} runs on this node already; stop it first") from None
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
