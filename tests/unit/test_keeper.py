"""The lease keeper and the tenure: counted from before the send, proven with the claims, never blocked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.keeper import TURNLESS, LeaseKeeper, inherited
from gateway.errors import LeaseGone, StoreUnavailable
from gateway.runtime import RuntimeDirectory, Tenure
from gateway.timers import Timers

TIMERS = Timers()
NOW = 1000.0


class ScriptedStore:
    """Answers each keepalive as told; `time` moves as each call is answered."""

    def __init__(self, *answers: float | Exception, takes: float = 0.0) -> None:
        self.answers, self.takes, self.now = list(answers), takes, 100.0
        self.claims: dict[str, int] = {"a" * 16: 7}
        self.asked = threading.Semaphore(0)

    def keepalive(self, lease: int, *, timeout: float) -> float:
        """The next answer of the script; after its end the lease is gone."""
        self.now += self.takes
        answer = self.answers.pop(0) if self.answers else LeaseGone("over")
        self.asked.release()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def own_claims(self, lease: int, *, timeout: float) -> dict[str, int]:
        """The claims as set."""
        self.now += self.takes
        return dict(self.claims)


def keeper_on(
    store: ScriptedStore, path: Path, on_change: Callable[[], None] = lambda: None, node: str = ""
) -> LeaseKeeper:
    """A keeper on the script's clock."""
    return LeaseKeeper(
        store,
        Tenure("boot", 5, 0.0, node=node),
        timers=TIMERS,
        runtime=RuntimeDirectory(path),
        on_change=on_change,
        clock=lambda: store.now,
    )


def test_the_tenure_is_counted_from_before_the_send(tmp_path: Path) -> None:
    """However long the answers took, the tenure ends TTL minus margin after the keepalive was sent."""
    store = ScriptedStore(10.0, takes=1.4)
    keeper = keeper_on(store, tmp_path)
    assert keeper._renew()
    assert keeper.tenure.end == 100.0 + TIMERS.tenure
    assert RuntimeDirectory(tmp_path).read_tenure("boot") == keeper.tenure


def test_a_failed_renewal_leaves_the_tenure_as_it_was(tmp_path: Path) -> None:
    """No answer is not an end: the tenure proven before runs out by itself."""
    store = ScriptedStore(10.0, StoreUnavailable("no answer"))
    keeper = keeper_on(store, tmp_path)
    keeper._renew()
    before = keeper.tenure
    assert not keeper._renew()
    assert keeper.tenure == before


def test_a_lease_that_is_gone_ends_the_tenure_at_once(tmp_path: Path) -> None:
    """LeaseGone ends the tenure, on file too, and wakes the cycle."""
    woken = threading.Event()
    keeper = keeper_on(ScriptedStore(10.0), tmp_path, woken.set)
    keeper.start()
    keeper.prove(5.0)
    keeper.prove(5.0)
    keeper.join(5.0)
    assert keeper.gone
    assert woken.is_set()
    assert not keeper.tenure.runs(0.0)
    on_file = RuntimeDirectory(tmp_path).read_tenure("boot")
    assert on_file is not None
    assert not on_file.runs(0.0)


def test_a_claim_that_vanished_wakes_the_cycle_and_is_not_covered(tmp_path: Path) -> None:
    """A claim that is not seen under the lease may not be served, though the tenure runs."""
    woken = threading.Event()
    store = ScriptedStore(10.0, 10.0)
    keeper = keeper_on(store, tmp_path, woken.set)
    keeper._renew()
    assert keeper.tenure.covers("a" * 16, 7, 101.0)
    assert not keeper.tenure.covers("a" * 16, 8, 101.0)
    store.claims = {}
    keeper._renew()
    assert woken.is_set()
    assert keeper.tenure.runs(101.0)
    assert not keeper.tenure.covers("a" * 16, 7, 101.0)


def test_prove_waits_for_a_renewal_that_began_after_the_call(tmp_path: Path) -> None:
    """A proof asked for after a claim covers that claim."""
    store = ScriptedStore(*[10.0] * 50)
    keeper = keeper_on(store, tmp_path)
    keeper.start()
    keeper.prove(5.0)
    store.claims = {"b" * 16: 9}
    assert keeper.prove(5.0).claims == {"b" * 16: 9}
    keeper.stop()


def test_a_tenure_of_another_boot_or_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    """What cannot be understood gives nobody the right to serve."""
    runtime = RuntimeDirectory(tmp_path)
    assert runtime.read_tenure("boot") is None
    runtime.write_tenure(Tenure("boot", 5, 1.0, {}))
    assert runtime.read_tenure("other") is None
    for garbage in ("", "{", "[]", '{"boot_id": "boot"}', '{"boot_id":"boot","lease":1,"end":"x","claims":{}}'):
        (tmp_path / "tenure").write_text(garbage)
        assert runtime.read_tenure("boot") is None


def test_a_tenure_the_guard_cannot_be_told_of_is_none(tmp_path: Path) -> None:
    """When `/run` takes no file (full, gone), the renewal counts as failed: the agent ends when the guard cuts."""
    store = ScriptedStore(10.0, 10.0)
    keeper = keeper_on(store, tmp_path / "file")
    (tmp_path / "file").write_text("in the way")
    assert not keeper._renew()
    assert not keeper.tenure.runs(100.0)
    (tmp_path / "file").unlink()
    assert keeper._renew()


def test_an_answer_that_comes_after_the_end_is_not_written(tmp_path: Path) -> None:
    """A renewal that hangs when its keeper is given up brings no old tenure back, whatever it answers."""
    answer = threading.Event()

    class Hanging(ScriptedStore):
        def own_claims(self, lease: int, *, timeout: float) -> dict[str, int]:
            assert answer.wait(10)
            return super().own_claims(lease, timeout=timeout)

    store = Hanging(10.0, 10.0)
    keeper = keeper_on(store, tmp_path)
    keeper.start()
    assert store.asked.acquire(timeout=10)
    keeper.abandon()
    answer.set()
    keeper.join(10)
    assert not keeper.is_alive()
    assert RuntimeDirectory(tmp_path).read_tenure("boot") is None
    assert not keeper.tenure.runs(0.0)


def test_the_nodes_name_goes_on_with_each_tenure(tmp_path: Path) -> None:
    """A successor can tell whose lease it is."""
    keeper = keeper_on(ScriptedStore(10.0), tmp_path, node="gw1")
    keeper._renew()
    on_file = RuntimeDirectory(tmp_path).read_tenure("boot")
    assert on_file is not None
    assert on_file.node == "gw1"


def test_an_outage_does_not_fill_the_log(tmp_path: Path) -> None:
    """Of failures in a row the first, second, fourth, eighth are logged; after a success it begins anew."""
    failures: list[float | Exception] = [StoreUnavailable("no answer")] * 100
    keeper = keeper_on(ScriptedStore(*failures, 10.0, StoreUnavailable("again")), tmp_path)
    with capture_logs() as logs:
        for _ in range(102):
            keeper._renew()
    assert [entry["in_a_row"] for entry in logs] == [1, 2, 4, 8, 16, 32, 64, 1]


@pytest.mark.parametrize(
    ("turned", "taken"), [(None, False), (NOW - TURNLESS - 0.1, False), (NOW - TURNLESS, True), (NOW, True)]
)
def test_a_lease_is_inherited_only_where_agents_turn(tmp_path: Path, turned: float | None, taken: bool) -> None:
    """Agents that start and die without end keep no lease alive: nobody would look after what is served under it."""
    runtime = RuntimeDirectory(tmp_path)
    left = Tenure("boot", 5, NOW + 3.0, {"a" * 16: 7}, node="gw1")
    runtime.write_tenure(left)
    if turned is not None:
        runtime.write_cycle_sign(turned)
    assert inherited(runtime, "boot", "gw1", NOW) == (left if taken else None)
    assert inherited(runtime, "boot of another day", "gw1", NOW) is None


def test_a_lease_that_is_inherited_is_renewed_before_the_rest_is_loaded() -> None:
    """The libraries of Ceph and of the metrics cost seconds on a slow machine, and the tenure runs meanwhile."""
    slow = ("rados", "rbd", "prometheus_client", "rtslib_fb", "agent.cycle", "gateway.kernel")
    asked = f"import sys, agent.main, agent.inheritance; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
