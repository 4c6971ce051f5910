"""Schedules by Hypothesis: a stateful machine whose rules each add one line, on a world whose guests never rest.

The rules know what would be pointless (booting what runs) and leave it out; beyond that anything goes. The same
machine looks for planted bugs: `search` runs it and returns the transcript of the shortest failure it came to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.simulation.node import Node
from tests.simulation.schedule import world_of
from tests.simulation.stage import Violation
from tests.simulation.world import Shape, World

NODE = st.integers(0, 2)
ACTORS = st.sampled_from(["work", "work", "work", "cycle", "keeper", "guard", "any"])
FAULTS = st.sampled_from(["crash", "pause", "stop", "kill", "hold", "lose-requests", "lose-answers", "lose-ceph"])
NAMED = {
    "work": (
        "etcd-get", "etcd-range", "etcd-write", "etcd-get-answers", "etcd-range-answers", "etcd-write-answers",
        "describe", "described", "read-header", "blocklist", "blocklisted", "await", "osd-stat", "touch", "swap",
        "swapped", "break-locks", "map_anchor", "map_image", "build", "build-halfway", "probe", "open_path",
        "permitted", "open_path-halfway", "teardown", "unmap",
    ),
    "cycle": (
        "observe", "etcd-get", "etcd-range", "etcd-write", "etcd-lease", "etcd-revoke", "etcd-range-answers",
        "etcd-write-answers", "etcd-lease-answers", "etcd-revoke-answers", "cut", "remove_addresses", "uncut",
    ),
    "keeper": ("etcd-keepalive", "etcd-range", "etcd-keepalive-answers", "etcd-range-answers"),
    "guard": ("observe", "cut", "remove_addresses", "uncut"),
}  # fmt: skip
"""What the points of each kind of actor are called (`Words`)."""

POINT = st.sampled_from([(kind, name) for kind in ("work", "work", "cycle", "keeper", "guard") for name in NAMED[kind]])
WORK = st.sampled_from(NAMED["work"])
KEEPER = st.sampled_from(NAMED["keeper"])
SECONDS = st.sampled_from([0.3, 1, 2, 4, 8, 11, 14, 20])


class Schedules(RuleBasedStateMachine):
    """One schedule: a world, up to so many lines, then everything heals and must come to rest."""

    world: World

    @initialize(
        shape=st.builds(
            Shape,
            seed=st.integers(0, 2**16),
            nodes=st.sampled_from([3, 3, 2, 1]),
            images=st.sampled_from([1, 1, 2]),
            locks=st.booleans(),
            news=st.booleans(),
        )
    )
    def make(self, shape: Shape) -> None:
        """Begin with a cluster that serves."""
        self.world = world_of(str(shape))
        self._do("run 4")

    @rule(seconds=SECONDS)
    def run(self, seconds: float) -> None:
        """Time passes."""
        self._do(f"run {seconds:g}")

    @rule(index=NODE, actor=ACTORS, count=st.integers(1, 25), fault=FAULTS)
    def at_point(self, index: int, actor: str, count: int, fault: str) -> None:
        """Something happens to a node between two of its calls."""
        node = self._node(index)
        if node.powered and not node.paused:
            self._do(f"{node.name} {actor} {count} {fault}")

    @rule(index=NODE, actor=ACTORS, count=st.integers(1, 12), seconds=st.sampled_from([1, 3, 9, 14]))
    def linger(self, index: int, actor: str, count: int, seconds: float) -> None:
        """One call of a node's takes long."""
        node = self._node(index)
        if node.powered and not node.paused and actor != "guard":
            self._do(f"{node.name} {actor} {count} hold")
            self._do(f"run {seconds:g}")
            self._do("held release")

    @rule(who=st.sampled_from(["holder", "*"]), point=POINT, fault=FAULTS)
    def at_named_point(self, who: str, point: tuple[str, str], fault: str) -> None:
        """Something happens to a node at a call of that name."""
        if who == "*" or self.world.words.node(who).powered:
            self._do(f"{who} {point[0]} {point[1]} {fault}")

    @rule(point=WORK, seconds=st.sampled_from([12, 20]), slow=st.booleans())
    def overtake(self, point: str, seconds: float, slow: bool) -> None:
        """Whoever takes a dead holder's image is held at a call, and another one takes it meanwhile; perhaps that one
        dies as well, with a write under way, before the first one goes on."""
        self._do("holder crash")
        self._do(f"* work {point} hold")
        self._do(f"run {seconds:g}")
        if slow:
            self.slow(40, True)
            self._do("run 12")
        self._do("held release")
        self._do("run 30")

    @rule(point=KEEPER, seconds=st.sampled_from([1, 3, 5]), then=KEEPER, fault=FAULTS)
    def late(self, point: str, seconds: float, then: str, fault: str) -> None:
        """A call of the holder's lease keeper takes long, and something happens at a later one."""
        if self.world.words.node("holder").powered:
            self._do(f"holder keeper {point} hold")
            self._do(f"run {seconds:g}")
            self._do("holder release")
            self._do(f"holder keeper {then} {fault}")
            self._do("run 15")

    @rule(fault=st.sampled_from(["lose requests", "lose answers", "stop"]), seconds=st.sampled_from([30, 90]))
    def besiege(self, fault: str, seconds: float) -> None:
        """The holder loses its lease while somebody has the image's device open, and still has it when that is over."""
        self._do("holder busy disk1")
        self._do(f"holder {fault}")
        self._do("run 15")
        self._do("holder continue" if fault == "stop" else "holder regain")
        self._do(f"run {seconds:g}")

    @rule(index=NODE, fault=st.sampled_from(["crash", "pause", "stop", "kill", "lose requests", "lose answers"]))
    def befall(self, index: int, fault: str) -> None:
        """Something happens to a node at rest or wherever it is."""
        node = self._holder(index)
        if node.powered:
            self._do(f"{node.name} {fault}")

    @rule(index=NODE, number=st.sampled_from([1, 2]), act=st.sampled_from(["plug", "unplug"]))
    def cable(self, index: int, number: int, act: str) -> None:
        """A network's carrier goes or comes."""
        self._do(f"{self._node(index).name} {act} {number}")

    @rule(index=NODE)
    def lose_ceph(self, index: int) -> None:
        """Ceph does not answer the node."""
        self._do(f"{self._holder(index).name} lose ceph")

    @rule(index=NODE)
    def recover(self, index: int) -> None:
        """What befell a node is over, but what is held stays held."""
        node = self._node(index)
        what = "boot" if not node.powered else "resume" if node.paused else "heal"
        self._do(f"{node.name} {what}")

    @rule(index=NODE)
    def release(self, index: int) -> None:
        """What is held goes on."""
        self._do(f"{self._node(index).name} release")

    @rule(seconds=st.sampled_from([15, 30, 40, 55]), crash=st.booleans())
    def slow(self, seconds: float, crash: bool) -> None:
        """The next write stays under way for long, perhaps longer than its node lives."""
        self._do(f"slow disk1 {seconds:g}")
        self._do("run 1")
        self._do("slow disk1 0")
        if crash:
            self._do("holder crash")

    @rule(index=NODE)
    def move(self, index: int) -> None:
        """An operator moves the image."""
        self._do(f"move disk1 {self._node(index).name}")

    @rule(clear=st.booleans())
    def reserve(self, clear: bool) -> None:
        """An initiator registers, and perhaps an operator clears that; either may meet a change under way."""
        self._do("register disk1")
        if clear:
            self._do("clear disk1")

    @rule(index=NODE, wish=st.sampled_from(["drain", "maintain", "activate"]))
    def ask(self, index: int, wish: str) -> None:
        """An operator wants something of a node."""
        self._do(f"{self._holder(index).name} {wish}")

    @rule(index=NODE)
    def busy(self, index: int) -> None:
        """Somebody opens the image's device."""
        self._do(f"{self._holder(index).name} busy disk1")

    def teardown(self) -> None:
        """Everything heals, and must come to rest."""
        if hasattr(self, "world"):
            try:
                if self.world.stage.failure is None:
                    self._carry_out(self.world.settle)
            finally:
                self.world.end()

    def _node(self, index: int) -> Node:
        return self.world.nodes[index % len(self.world.nodes)]

    def _holder(self, index: int) -> Node:
        """Mostly whoever serves: faults there matter most."""
        serving = [node for node in self.world.nodes if node.serves(self.world.specs[0]) is not None]
        return serving[0] if serving and index else self._node(index)

    def _do(self, line: str) -> None:
        self._carry_out(lambda: self.world.do(line))

    def _carry_out(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Violation as violation:
            told = "\n".join(self.world.told)
            raise Violation(f"{violation}\n{told}") from violation.__cause__


def search(schedules: int, lines: int, *, shrink: bool = True, **more: Any) -> str:
    """The transcript of a failure among so many schedules of at most so many lines; empty if there is none.

    The same schedules every time: Hypothesis draws them from the machine's own name.
    """
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    chosen = settings(
        max_examples=schedules,
        stateful_step_count=lines,
        deadline=None,
        derandomize=True,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        **more,
    )
    try:
        run_state_machine_as_test(Schedules, settings=chosen)
    except Violation as violation:
        return str(violation)
    return ""
