"""The guard: leaves a running tenure alone, and takes everything down, cut first, when it is over."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from agent import main
from agent.clock import boottime
from agent.guard import Guard, withdraw_once
from agent.watchdog import Signs
from agent.workers import Workers
from gateway.errors import KernelRefused
from gateway.events import trace_of
from gateway.lio.lock import ConfigfsLock, start_time
from gateway.model import Address, parse_address
from gateway.runtime import RuntimeDirectory, Tenure
from gateway.timers import Timers
from tests.unit.test_plan import Node, spec_of, world

TIMERS = Timers()


class Watched:
    """A guard over a node on fakes that serves one image."""

    def __init__(self, path: Path) -> None:
        _, self.pool, (self.node,) = world(nodes=1)
        self.node.settle()
        self.acts: list[str] = []
        self.node.kernel.before = self.acts.append
        self.runtime = RuntimeDirectory(path)
        kernel = self.node.kernel
        kernel.lock = ConfigfsLock(path / "lock")  # type: ignore[attr-defined]
        kernel.portal_addresses = self.portal_addresses  # type: ignore[attr-defined]
        self.workers = Workers(slots=2, retry_first=0.01, retry_last=0.01, on_done=lambda: None)
        self.guard = Guard(
            boot_id="boot",
            timers=TIMERS,
            runtime=self.runtime,
            kernel=kernel,  # type: ignore[arg-type]
            workers=self.workers,
        )

    def portal_addresses(self) -> frozenset[Address]:
        """The addresses on the fake."""
        return frozenset(self.node.kernel.state.addresses)

    def look(self, now: float) -> None:
        """One look, and what it started is done."""
        self.guard.look(now)
        deadline = time.monotonic() + 10
        while self.workers.busy() and time.monotonic() < deadline:
            time.sleep(0.001)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A node with an export and its guard."""
    return Watched(tmp_path)


def served(node: Node) -> bool:
    """Whether the node's image is up."""
    return node.serves(spec_of(1))


def test_a_running_tenure_is_left_alone(watched: Watched) -> None:
    """Nothing is touched up to the tenure's end and the grace after it."""
    watched.runtime.write_tenure(Tenure("boot", 1, 100.0, {}))
    watched.look(99.0)
    watched.look(100.0 + TIMERS.guard_grace - 0.01)
    assert watched.acts == []
    assert served(watched.node)


def test_after_the_tenure_everything_goes_and_the_cut_is_first(watched: Watched) -> None:
    """Cut, addresses off, then LIO and krbd, and in the end nothing of ours is left, the cuts included."""
    watched.runtime.write_tenure(Tenure("boot", 1, 100.0, {}))
    for turn in range(6):
        watched.look(101.0 + turn * 10)
    assert watched.acts[:2] == ["cut", "remove_addresses"]
    state = watched.node.kernel.state
    assert (state.devices, state.targets, state.mappings, state.addresses, state.cuts) == ((), (), (), {}, frozenset())


def test_systemd_is_told_what_the_guard_does(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it withdraws while that lasts, that it is done, and that it watches again, also where nothing was up."""
    said: list[str] = []
    monkeypatch.setattr("agent.guard.notify", lambda **words: said.append(words["STATUS"]))
    for _ in range(2):
        watched.runtime.write_tenure(Tenure("boot", 1, 100.0, {}))
        watched.look(101.0)
        watched.look(101.1)
        for turn in range(6):
            watched.look(102.0 + turn * 10)
        watched.runtime.write_tenure(Tenure("boot", 1, 300.0, {}))
        watched.look(200.0)
    withdrawing, done = "the tenure is over; withdrawing", "the tenure is over and nothing is served here"
    assert [word for word, _ in groupby(said)] == 2 * [withdrawing, done, "watching"]


def test_what_is_logged_keeps_no_portal_up(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that takes no line keeps whoever writes one waiting: cut and addresses off come before the first."""
    acted: list[list[str]] = []
    monkeypatch.setattr("agent.guard.log.warning", lambda *_, **__: acted.append(list(watched.acts)))
    watched.runtime.write_tenure(Tenure("boot", 1, 100.0, {}))
    watched.look(101.0)
    assert acted[0] == ["cut", "remove_addresses"]


def test_what_the_guard_withdraws_bears_the_trace_of_the_next_takeover(watched: Watched) -> None:
    """Each line about an image names the claim that ended, which the next holder names as well."""
    (device,) = watched.node.kernel.state.devices
    watched.runtime.write_tenure(Tenure("boot", 1, 100.0, {}))
    with capture_logs([merge_contextvars]) as lines:
        for turn in range(6):
            watched.look(101.0 + turn * 10)
    told = [line for line in lines if line.get("uid") == device.name.uid]
    assert [line.get("step", line["event"]) for line in told] == ["Teardown", "Unmap", "withdrawn"]
    assert {line["trace"] for line in told} == {trace_of(device.name.token)}


@pytest.mark.parametrize("content", [None, "", "garbage", '{"boot_id": "another"}'])
def test_no_readable_tenure_is_no_tenure(watched: Watched, content: str | None) -> None:
    """Without a file, or with one that says nothing, the node may not serve."""
    if content is not None:
        watched.runtime.path.joinpath("tenure").write_text(content)
    watched.look(1.0)
    assert watched.acts[0] == "cut"
    assert not watched.node.kernel.state.addresses


def test_a_tenure_that_runs_again_stops_the_withdrawal(watched: Watched) -> None:
    """When the agent proves its lease anew, the guard leaves the node to it."""
    watched.runtime.write_tenure(Tenure("boot", 1, 100.0, {}))
    watched.look(101.0)
    watched.runtime.write_tenure(Tenure("boot", 1, 200.0, {}))
    before = list(watched.acts)
    watched.look(101.5)
    assert watched.acts == before


def test_a_sign_that_cannot_be_written_ends_no_guard(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `/run` full the guard watches on, and signs again when it can."""
    in_the_way = watched.runtime.path / f".guard.{os.getpid()}"
    in_the_way.mkdir(parents=True)
    signs: list[float | None] = []

    def look(now: float) -> None:
        signs.append(watched.runtime.guard_sign())
        if len(signs) == 1:
            in_the_way.rmdir()
        else:
            watched.guard.stop()

    times = iter((10.0, 20.0))
    monkeypatch.setattr(watched.guard, "_clock", lambda: next(times))
    monkeypatch.setattr(watched.guard, "look", look)
    watched.guard.run()
    assert signs == [None, 20.0]


def test_a_refused_cut_does_not_stop_the_withdrawal(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes no drop rule loses its addresses all the same, and then everything else."""
    kernel = watched.node.kernel

    def refuse(addresses: object) -> None:
        raise KernelRefused("no policy rules")

    def remove(addresses: object) -> None:
        kernel.state = replace(kernel.state, addresses={})

    monkeypatch.setattr(kernel, "cut", refuse)
    monkeypatch.setattr(kernel, "remove_addresses", remove)
    for turn in range(6):
        watched.look(101.0 + turn * 10)
    assert (kernel.state.devices, kernel.state.mappings, kernel.state.addresses) == ((), (), {})


@pytest.mark.parametrize("stops_before", ["teardown", "unmap"])
def test_a_withdrawal_under_way_stops_where_the_tenure_runs_again(watched: Watched, stops_before: str) -> None:
    """A step that hung neither removes what the agent serves again nor goes on to the next one."""

    def proven(act: str) -> None:
        if act == stops_before:
            watched.runtime.write_tenure(Tenure("boot", 1, boottime() + 100, {}))

    watched.node.kernel.before = proven
    exported, mapped = len(watched.node.kernel.state.devices), len(watched.node.kernel.state.mappings)
    watched.look(boottime())
    assert len(watched.node.kernel.state.devices) == (exported if stops_before == "teardown" else 0)
    assert len(watched.node.kernel.state.mappings) == (mapped if stops_before == "teardown" else mapped - 1)


@pytest.mark.parametrize("same", [True, False])
def test_only_the_very_process_that_holds_the_lock_is_ended(watched: Watched, tmp_path: Path, same: bool) -> None:
    """A process that got the pid of a holder that died, though it is one of ours too, is left alone."""
    with subprocess.Popen(["rbdgate-agent", "60"], executable="/bin/sleep") as other:
        started = start_time(other.pid)
        assert started is not None
        while not Path(f"/proc/{other.pid}/cmdline").read_bytes():
            pass  # Popen returns while the kernel still loads the program: it has no arguments then
        holder = [other.pid, started if same else started - 1]
        (tmp_path / "lock").write_text(json.dumps(holder))
        watched.guard._end_lock_holder()
        ended = other.poll() is not None if not same else other.wait(10) == -signal.SIGKILL
        other.kill()
    assert ended == same


class Stubborn:
    """A kernel that refuses the first so many acts."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.addresses = refusals, frozenset({parse_address("192.0.2.10")})

    def portal_addresses(self) -> frozenset[Address]:
        """What is left."""
        return self.addresses

    def cut(self, addresses: frozenset[Address]) -> None:
        """Refuse for as long as is left."""
        self.refusals -= 1
        if self.refusals >= 0:
            raise KernelRefused("busy")

    def remove_addresses(self, addresses: frozenset[Address]) -> None:
        """The same."""
        self.cut(addresses)
        self.addresses = frozenset()


def test_the_last_act_is_tried_until_its_bound() -> None:
    """A refusal is no end, and one that lasts is told."""
    kernel, time_left = Stubborn(5), iter(range(100))
    withdraw_once(kernel, lambda: next(time_left), 10.0)
    assert not kernel.addresses
    time_left = iter(range(100))
    with pytest.raises(KernelRefused):
        withdraw_once(Stubborn(1000), lambda: next(time_left), 10.0)


def test_the_last_act_needs_no_readable_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard's unit cuts with a broken settings file too, takes the sign of life back, and then complains."""
    cut: list[object] = []
    monkeypatch.setattr("agent.guard.withdraw_once", lambda *arguments: cut.append(arguments))
    monkeypatch.setattr(main, "RUNTIME_DIRECTORY", tmp_path)
    RuntimeDirectory(tmp_path).write_guard_sign(1.0)
    (tmp_path / "broken.toml").write_text("nonsense = 1")
    assert main.main(["cut", "--settings", str(tmp_path / "broken.toml")]) == 1
    assert cut
    assert RuntimeDirectory(tmp_path).guard_sign() is None


def test_a_starting_guard_takes_its_predecessors_sign_back_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that died without its unit's last act left a sign that would count for seconds, while nobody watches."""
    runtime, acts = RuntimeDirectory(tmp_path), list[str]()
    runtime.write_guard_sign(1.0)
    run_daemon(runtime, monkeypatch, lambda act: acts.append(f"{act}, sign {runtime.guard_sign()}"))
    assert acts[:2] == ["cut, sign None", "trap, sign None"]


@pytest.mark.parametrize("bug", [False, True])
def test_a_guard_that_ends_cuts_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: bool) -> None:
    """Its unit's last act is a process that has to start first; nobody watches from here on, whatever it ends of."""
    acts = list[str]()

    def acted(act: str) -> None:
        acts.append(act)
        if bug and act == "watch":
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug") if bug else nullcontext():
        assert run_daemon(RuntimeDirectory(tmp_path), monkeypatch, acted) == 0
    assert acts == ["cut", "trap", "watch", "cut"]


def run_daemon(runtime: RuntimeDirectory, monkeypatch: pytest.MonkeyPatch, acted: Callable[[str], None]) -> int:
    """Run the guard's process as far as it has nothing to do; `acted` hears of its cuts, its trap and its watch."""
    settings = runtime.path / "rbdgate.toml"
    text = f'node = "gw1"\n[etcd]\nendpoints = ["10.0.0.1:2379"]\n[agent]\nruntime_directory = "{runtime.path}"\n'
    settings.write_text(text)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(main, "_only_one", lambda *_: ExitStack())
    monkeypatch.setattr(main, "_trap", lambda *_: acted("trap"))
    monkeypatch.setattr("agent.guard.withdraw_once", lambda *_: acted("cut"))
    monkeypatch.setattr("agent.guard.Guard.run", lambda _: acted("watch"))
    return main.main(["guard", "--settings", str(settings)])


def test_the_watchdogs_signs_are_what_the_guard_reads(watched: Watched) -> None:
    """Nothing on file is nothing by right; silence is read from the kernel each time."""
    assert watched.guard.signs() == Signs(-math.inf, -math.inf, -math.inf)
    watched.runtime.write_tenure(Tenure("boot", 1, 100.0, {}))
    watched.runtime.write_cycle_sign(97.0)
    watched.look(99.0)
    assert watched.guard.signs() == Signs(100.0 + TIMERS.guard_grace, 99.0, 97.0)
    assert not watched.guard.silent()
    watched.look(101.0)
    assert watched.guard.silent()


class Mount:
    """A trap's mount that refuses as often as it is told to."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.calls = refusals, list[str]()
        self.settled = False

    def open(self) -> None:
        """The first."""
        self._call("open")

    def look(self) -> None:
        """Each further one."""
        self._call("look")

    def requests(self) -> int:
        """How often it was called."""
        return len(self.calls)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.settled = len(self.calls) >= self.refusals
        if len(self.calls) <= self.refusals:
            raise KernelRefused("cannot mount")


def test_the_trap_is_opened_before_the_first_sign(tmp_path: Path) -> None:
    """No sign of life before what is exported is known to be off the air or compared; a trap that cannot be mounted is
    tried again and again, and keeps the guard from nothing else."""
    watched, mount = Watched(tmp_path), Mount(3)
    signs: list[tuple[list[str], float | None]] = []
    guard = Guard(
        boot_id="boot",
        timers=TIMERS,
        runtime=watched.runtime,
        kernel=watched.node.kernel,  # type: ignore[arg-type]
        workers=watched.workers,
        trap=mount,
        clock=lambda: next(times),
    )
    times = iter([1.0, 2.5, 4.0, 5.5])

    def looked(now: float) -> None:
        signs.append((list(mount.calls), watched.runtime.guard_sign()))
        if len(signs) == 4:
            guard.stop()

    guard.look = looked  # type: ignore[method-assign]
    guard.run()
    assert [calls for calls, _ in signs] == [["open", *["look"] * n] for n in (1, 2, 3, 4)]
    assert [sign for _, sign in signs] == [None, 2.5, 4.0, 5.5]


def test_marks_of_images_are_kept_apart(tmp_path: Path) -> None:
    """What is condemned and what is crowded are told by uid; absolved of just that and emptied, nothing is left."""
    runtime = RuntimeDirectory(tmp_path / "run")
    assert (runtime.condemned(), runtime.crowded()) == ({}, {})
    runtime.condemn("00000000000000a1", "why")
    runtime.mark_crowded("00000000000000a2", 400)
    assert (runtime.condemned(), runtime.crowded()) == ({"00000000000000a1": "why"}, {"00000000000000a2": 400})
    runtime.absolve("00000000000000a1", "another reason")
    assert runtime.condemned() == {"00000000000000a1": "why"}
    for _ in range(2):
        runtime.absolve("00000000000000a1", "why")
    runtime.mark_crowded("00000000000000a2", 0)
    assert (runtime.condemned(), runtime.crowded()) == ({}, {})
