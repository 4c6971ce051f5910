"""The narrator, over whole agents on fakes: each change is told once, in order, with its reason; rest tells nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from agent.clock import boottime
from agent.narrator import OBSTACLE_LASTS, REASONS
from gateway.errors import FenceUnconfirmed, KernelRefused, StorageUnavailable
from gateway.events import Event, Kind
from gateway.model import Amendment, AmendmentKind, Claim, HolderRecord, ImageSpec, Label
from gateway.phases import Phase
from gateway.runtime import RuntimeDirectory
from gateway.store.values import Delete
from gateway.timers import Timers
from tests.fakes.member import Cluster, Member
from tests.unit.test_plan import NETWORKS, spec_of

SPEC = spec_of(1)
Join = Callable[[str], Member]


@pytest.fixture
def cluster() -> Cluster:
    """A cluster with one image and no node."""
    return Cluster(NETWORKS, (SPEC,))


@pytest.fixture
def join(cluster: Cluster, tmp_path: Path) -> Iterator[Join]:
    """Makes nodes whose agents run, and ends them."""
    members: list[Member] = []

    def make(name: str) -> Member:
        member = Member(cluster, name, tmp_path)
        member.start()
        members.append(member)
        return member

    yield make
    for member in members:
        member.stop()


@pytest.fixture
def holder(join: Join) -> Member:
    """A node that serves the image and has told so."""
    member = join("gw1")
    member.settle()
    return member


def drain(member: Member) -> list[Event]:
    """What the node told since it was last asked."""
    told, member.events[:] = list(member.events), []
    return told


def words(events: list[Event]) -> list[str]:
    """The events as kind and text, without seconds."""
    return [f"{event.kind.value}: {re.sub(r'[0-9.]+ s', 'N s', event.text)}" for event in events]


def set_link(member: Member, number: int, *, up: bool) -> None:
    """Give a network of the node a carrier, or take it."""
    name, networks = NETWORKS[number].name, member.kernel.state.networks
    changed = {**networks, name: replace(networks[name], up=up)}
    member.kernel.state = replace(member.kernel.state, networks=changed)


def end_lease(member: Member) -> None:
    """The node's lease ends, as after its power was cut."""
    member.stop()
    member.cluster.etcd.revoke_lease(member.lease)


def test_a_start_in_order(join: Join) -> None:
    """A node that joins a cluster tells of itself, then of the claim with placement's reason, then of the service."""
    member = join("gw1")
    member.settle()
    joined, claimed, serves = drain(member)
    assert words([joined, claimed, serves]) == [
        "node: joined",
        "image: claimed",
        "image: serves it, 2 of 2 paths up (detect N s, claim N s, fence N s, map N s, restore N s, export N s,"
        " announce N s)",
    ]
    token = member.cluster.store.view().claims[SPEC.uid].token
    assert claimed.trace == serves.trace == f"claim-{token}"
    assert list(serves.phases) == [phase.value for phase in Phase]
    assert (claimed.image, claimed.uid) == (str(SPEC.name), SPEC.uid)
    assert claimed.why.startswith("gw1: its turn among 1 node")
    assert serves.seconds is not None
    assert sum(serves.phases.values()) <= serves.seconds + 0.01
    assert joined.trace == f"lease {member.lease:x}"


def test_an_operators_change_of_reservations(holder: Member) -> None:
    """It is told when it is made, once: what, whose wish and why; the image is served anew, and nothing is a fault."""
    drain(holder)
    store = holder.cluster.store
    store.request_amendment(SPEC, Amendment(AmendmentKind.CLEAR, "operator root@gw1", "the cluster is gone"))
    holder.settle()
    made, serves = drain(holder)
    assert (made.text, made.why) == (
        "changed its recorded reservations as operator root@gw1 asked: clear",
        "the cluster is gone",
    )
    assert made.trace == serves.trace != ""
    assert serves.text.startswith("serves it, 2 of 2 paths up (")
    assert not store.view().amendments


def test_rest_tells_nothing(holder: Member) -> None:
    """Turns in which nothing changes leave no event."""
    drain(holder)
    for _ in range(5):
        holder.turn()
    assert drain(holder) == []


def test_a_restart_of_the_agent_is_one_event(holder: Member) -> None:
    """A new agent that takes up lease and exports tells that, and nothing of what was served all along."""
    drain(holder)
    assert holder.restart()
    holder.settle()
    told = drain(holder)
    assert words(told) == ["node: took up its lease and what it serves"]
    assert told[0].trace == f"lease {holder.lease:x}"


def test_an_agent_that_was_away_too_long_joins_anew(holder: Member) -> None:
    """When the guard has withdrawn everything and the lease is gone, a new agent does not tell that it took it up."""
    drain(holder)
    holder.stop()
    holder.cluster.now += 100
    state = holder.kernel.state
    holder.kernel.state = replace(state, devices=(), targets=(), mappings=(), addresses={}, cuts=frozenset())
    holder.link.renew()
    assert holder.start()
    holder.membership.prove()
    holder.settle()
    told = [event for event in drain(holder) if event.kind is Kind.NODE]
    assert words(told)[-1] == "node: joined"
    assert not any("took up" in text for text in words(told))
    assert "lease" in told[-1].why


def test_a_turn_that_sees_a_claim_first_knows_its_reason(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd's watch can wake the cycle before the claim's own answer is back: the reason is told all the same."""
    member = join("gw1")
    store, narrator = member.cluster.store, member.cycle._narrator
    claim = store.claim

    def seen_first(spec: ImageSpec, revision: int, node: Label, lease: int) -> Claim:
        made = claim(spec, revision, node, lease)
        narrator.turns(store.view(), lease)
        return made

    monkeypatch.setattr(store, "claim", seen_first)
    member.settle()
    told = [event for event in drain(member) if event.text == "claimed"]
    assert [event.why.partition(" among")[0] for event in told] == ["gw1: its turn"]


def test_a_turn_that_sees_a_release_first_misses_nothing(
    holder: Member, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that is gone because its holder just let go of it was not lost."""
    taker = join("gw2")
    taker.settle()
    drain(holder)
    store, narrator = holder.cluster.store, holder.cycle._narrator
    release = store.release

    def seen_first(uid: str, token: int, records: tuple[HolderRecord, ...]) -> None:
        release(uid, token, records)
        narrator.turns(store.view(), holder.lease)

    monkeypatch.setattr(store, "release", seen_first)
    store.request_move(SPEC.uid, taker.name)
    holder.turn()
    holder.turn()
    told = words(drain(holder))
    assert told[0] == "image: let go of it"
    assert "fault: lost it" not in told


def test_a_move_has_its_reason_on_both_sides(holder: Member, join: Join) -> None:
    """The holder tells why it let go and how long that took, the taker why it claimed."""
    taker = join("gw2")
    taker.settle()
    drain(holder), drain(taker)
    token = holder.cluster.store.view().claims[SPEC.uid].token
    holder.cluster.store.request_move(SPEC.uid, taker.name)
    for _ in range(6):
        holder.turn()
        taker.turn()
    gone, came = drain(holder), drain(taker)
    assert words(gone) == ["image: let go of it"]
    assert "an operator's move" in gone[0].why
    assert gone[0].seconds is not None
    assert [event.text.split()[0] for event in came] == ["claimed", "serves"]
    assert "an operator's move" in came[0].why
    assert {event.trace for event in (*gone, *came)} == {f"claim-{token}"}


def test_a_takeover_in_order(holder: Member, join: Join) -> None:
    """After a holder's death: who is gone, the claim, whom it fenced and for whom, the service, under one trace."""
    taker = join("gw2")
    taker.settle()
    drain(taker)
    before = holder.cluster.store.view()
    victims = {str(record.instance) for record in before.records}
    end_lease(holder)
    taker.settle()
    gone, claimed, fenced, serves = drain(taker)
    assert (gone.kind, gone.node, gone.text) == (Kind.NODE, "gw1", "is not live any more")
    assert [claimed.text, fenced.text.split(":")[0]] == ["claimed", "fenced the clients of gw1, confirmed"]
    assert (fenced.kind, fenced.node, fenced.image) == (Kind.FENCE, "gw1", str(SPEC.name))
    assert all(victim in fenced.text for victim in victims)
    assert serves.text.startswith("serves it, 2 of 2")
    assert {claimed.trace, fenced.trace, serves.trace} == {f"claim-{before.claims[SPEC.uid].token}"}


def test_an_agent_that_starts_after_a_death_knows_the_trace(holder: Member, join: Join) -> None:
    """The records of the dead holder name its claim: whoever takes over uses it, though it never saw that claim."""
    token = holder.cluster.store.view().claims[SPEC.uid].token
    end_lease(holder)
    late = join("gw2")
    late.settle()
    told = [event for event in drain(late) if event.image]
    assert {event.trace for event in told} == {f"claim-{token}"}
    assert [event.text.split()[0] for event in told] == ["claimed", "fenced", "serves"]


def test_the_steps_of_both_sides_bear_the_trace(holder: Member, join: Join) -> None:
    """Every line that either agent logs about its work on a moved image has the trace of the events."""
    taker = join("gw2")
    taker.settle()
    token = holder.cluster.store.view().claims[SPEC.uid].token
    holder.cluster.store.request_move(SPEC.uid, taker.name)
    with capture_logs([merge_contextvars]) as lines:
        for _ in range(6):
            holder.turn()
            taker.turn()
    steps = [line for line in lines if line.get("uid") == SPEC.uid]
    assert {"Release", "Claim", "TakeHold", "Map", "Build", "OpenPath"} <= {line.get("step") for line in steps}
    assert {(line["image"], line["trace"]) for line in steps} == {(str(SPEC.name), f"claim-{token}")}


def test_a_claim_that_was_lost_and_its_end_here_bear_one_trace(holder: Member, join: Join) -> None:
    """What a holder withdraws after it lost its claim belongs to the end of that claim, not to the next one."""
    other = join("gw2")
    other.settle()
    drain(holder)
    store = holder.cluster.store
    token = store.view().claims[SPEC.uid].token
    holder.cluster.etcd.transact([], [Delete(store.keys.claim(SPEC.uid))])
    store.claim(SPEC, store.view().revisions[SPEC.name], other.name, other.lease)
    for _ in range(6):
        holder.turn()
    assert {event.trace for event in drain(holder)} == {f"claim-{token}"}


def test_opening_a_path_again_is_no_takeover(holder: Member) -> None:
    """A path that comes back is not counted with a later takeover of the same image."""
    set_link(holder, 1, up=False)
    holder.settle()
    holder.ahead = Timers().link_down
    holder.settle()
    set_link(holder, 1, up=True)
    holder.settle()
    drain(holder)
    devices = tuple(replace(device, enabled=False) for device in holder.kernel.state.devices)
    holder.kernel.state = replace(holder.kernel.state, devices=devices)
    holder.ahead += 3.0
    holder.settle()
    serves = drain(holder)[-1]
    assert serves.seconds is not None
    assert serves.seconds < 2.0


def test_one_node_tells_who_is_gone(holder: Member, join: Join) -> None:
    """Of several nodes that see a death, the first by name tells it."""
    others = [join("gw2"), join("gw3")]
    for member in others:
        member.settle()
    end_lease(holder)
    told = []
    for member in others:
        member.turn()
        told += [(str(member.name), event.node) for event in drain(member) if event.text == "is not live any more"]
    assert told == [("gw2", "gw1")]


def together(join: Join, count: int) -> list[Member]:
    """So many nodes at rest, each of which has seen all others."""
    members = [join(f"gw{number}") for number in range(1, count + 1)]
    for member in (*members, *members):
        member.settle()
    return members


def deaths(members: list[Member]) -> list[tuple[str, str]]:
    """One turn of each: who tells of whose death."""
    told = []
    for member in members:
        member.turn()
        told += [(str(member.name), event.node) for event in drain(member) if event.text == "is not live any more"]
    return told


def test_of_two_deaths_the_first_is_told_as_well(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was to tell of the first dies without having told: the next node does, with the time it saw it."""
    teller, victim, *left = together(join, 4)
    end_lease(victim)
    assert deaths(left) == []
    monkeypatch.setattr(left[0].cycle._narrator, "_wall", lambda: "later")
    end_lease(teller)
    left[0].turn()
    gone = [event for event in drain(left[0]) if event.text == "is not live any more"]
    assert [event.node for event in gone] == ["gw2", "gw1"]
    assert gone[0].time.startswith("20")
    assert gone[1].time == "later"
    assert deaths([*left, *left]) == []


def test_what_was_told_long_ago_is_not_told_again(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node that told of a death and goes much later, only its own death is told."""
    teller, victim, third = together(join, 3)
    end_lease(victim)
    assert deaths([teller, third]) == [("gw1", "gw2")]
    monkeypatch.setattr(third.cycle._narrator, "_clock", lambda: boottime() + 2 * Timers().lease_ttl)
    end_lease(teller)
    assert deaths([third]) == [("gw3", "gw1")]


def test_a_node_that_is_back_is_not_told_dead(join: Join) -> None:
    """What another node left untold of it is over."""
    teller, other, victim = together(join, 3)
    end_lease(victim)
    assert deaths([other]) == []
    victim.runtime.drop_tenure()
    join("gw3").settle()
    other.turn()
    end_lease(teller)
    assert deaths([other]) == [("gw2", "gw1")]


def test_a_death_while_the_tellers_agent_starts_anew_is_told(join: Join) -> None:
    """What the agent before saw live is kept for its successor, which tells who is gone, and nobody else does."""
    teller, victim, third = together(join, 3)
    teller.stop()
    end_lease(victim)
    assert deaths([third]) == []
    assert teller.restart()
    assert deaths([teller, third, teller]) == [("gw1", "gw2")]
    assert teller.restart()
    assert deaths([teller, third]) == []


def test_what_was_seen_under_another_lease_tells_of_no_death(tmp_path: Path) -> None:
    """Nor does a file that nobody can read, and one that cannot be written is no failure."""
    runtime = RuntimeDirectory(tmp_path / "run")
    runtime.write_live(7, {Label("gw1"), Label("gw2")})
    assert runtime.read_live(7) == {Label("gw1"), Label("gw2")}
    assert runtime.read_live(8) == frozenset()
    for garbage in ("", "[]", '{"lease": 7}', '{"lease": 7, "nodes": ["a/b"]}', '{"lease": 7, "nodes": [1]}'):
        (runtime.path / "live").write_text(garbage)
        assert runtime.read_live(7) == frozenset()
    (tmp_path / "file").touch()
    RuntimeDirectory(tmp_path / "file").write_live(7, {Label("gw1")})


def test_an_unconfirmed_fence_is_told_once(holder: Member, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is tried, a fence that is not confirmed is one event, and its end another."""
    taker = join("gw2")
    taker.settle()
    drain(taker)
    end_lease(holder)
    storage, tries = type(taker.link.connected()), []

    def refuse(*_: object) -> None:
        tries.append(1)
        raise FenceUnconfirmed(f"the OSDs did not answer (try {len(tries)})")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "fence", refuse)
        while len(tries) < 3:
            taker.turn()
    told = [event for event in drain(taker) if event.kind in (Kind.FENCE, Kind.FAULT)]
    assert words(told) == ["fence: not fenced, so not served"]
    assert "did not answer (try 1)" in told[0].why
    assert told[0].trace.startswith("claim-")
    taker.settle()
    after = [text.partition(" (")[0] for text in words(drain(taker))]
    assert sorted(text.partition(", confirmed")[0] for text in after) == [
        "fault: the fault is over",
        "fence: fenced the clients of gw1",
        "image: serves it, 2 of 2 paths up",
    ]


def test_a_takeover_that_is_tried_again_has_one_fence(
    holder: Member, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When something after the fence fails and the takeover is tried anew, the same clients are told once."""
    taker = join("gw2")
    taker.settle()
    drain(taker)
    end_lease(holder)
    storage, tries = type(taker.link.connected()), []

    def refuse(*_: object) -> None:
        tries.append(1)
        raise StorageUnavailable("the OSDs did not answer")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "take", refuse)
        while len(tries) < 3:
            taker.turn()
    taker.settle()
    assert [event.text.split()[0] for event in drain(taker) if event.kind is Kind.FENCE] == ["fenced"]


def test_a_path_goes_down_and_up(holder: Member) -> None:
    """A lost link is told for each path with its address and reason, and so is its return."""
    drain(holder)
    set_link(holder, 1, up=False)
    holder.settle()
    holder.ahead = Timers().link_down
    holder.settle()
    told = drain(holder)
    assert words(told) == [f"path: path 2 ({SPEC.paths[1].address}, storage-2) is down"]
    assert "has no link" in told[0].why
    set_link(holder, 1, up=True)
    holder.settle()
    assert words(drain(holder))[-1] == f"path: path 2 ({SPEC.paths[1].address}, storage-2) is up again"


def test_drift_is_told(holder: Member) -> None:
    """An export that somebody changed by hand is told, and so is that it is served again."""
    drain(holder)
    devices = tuple(replace(device, enabled=False) for device in holder.kernel.state.devices)
    broken = tuple(replace(device, attributes={**device.attributes, "block_size": "1"}) for device in devices)
    holder.kernel.state = replace(holder.kernel.state, devices=broken)
    holder.settle()
    told = drain(holder)
    assert [event.text.partition(",")[0] for event in told] == ["is not exported here any more", "serves it"]
    assert told[0].kind is Kind.FAULT


def test_a_fault_is_told_once_and_so_is_its_end(holder: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails again and again with another number each time is one event."""
    drain(holder)
    tries: list[int] = []

    def refuse(*_: object) -> None:
        tries.append(1)
        raise KernelRefused(f"errno 5 at 0x{len(tries)}")

    set_link(holder, 1, up=False)
    with monkeypatch.context() as patch:
        patch.setattr(holder.kernel, "close_path", refuse)
        while len(tries) < 3:
            holder.turn()
    told = drain(holder)
    assert [text for text in words(told) if text.startswith("fault")] == ["fault: close path failed"]
    holder.settle()
    assert "fault: the fault is over" in words(drain(holder))


def test_a_series_has_few_reasons(holder: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails for ever new reasons tells a few of them only."""
    drain(holder)
    tries: list[int] = []

    def refuse(*_: object) -> None:
        tries.append(1)
        raise KernelRefused("it" + "s" * len(tries))

    set_link(holder, 1, up=False)
    monkeypatch.setattr(holder.kernel, "close_path", refuse)
    while len(tries) < REASONS + 3:
        holder.turn()
    assert [event.kind for event in drain(holder)].count(Kind.FAULT) == REASONS


def test_a_claim_that_somebody_deleted_is_told(holder: Member, join: Join) -> None:
    """A holder whose claim is gone under its live lease tells that it lost it, withdrew, and lets others have it."""
    other = join("gw2")
    other.settle()
    drain(holder)
    store = holder.cluster.store
    holder.cluster.etcd.transact([], [Delete(store.keys.claim(SPEC.uid))])
    store.claim(SPEC, store.view().revisions[SPEC.name], other.name, other.lease)
    for _ in range(6):
        holder.turn()
    assert [text.partition(f" {SPEC.name}")[0] for text in words(drain(holder))[:3]] == [
        "fault: lost it",
        "image: withdrew what there was of",
        "image: had lost it, and let go of what named it as the holder",
    ]


def test_another_node_that_was_faster_is_no_fault(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losing the race for a claim is how claims are meant to work: it is not told."""
    member = join("gw1")
    other = join("gw2")
    other.turn()
    claim = member.cluster.store.claim

    def second(spec: ImageSpec, revision: int, node: object, lease: int) -> Claim:
        claim(spec, revision, other.name, other.lease)
        return claim(spec, revision, member.name, lease)

    monkeypatch.setattr(member.cluster.store, "claim", second)
    for _ in range(4):
        member.turn()
    assert member.cluster.store.view().claims[SPEC.uid].node == other.name
    assert [event.kind for event in drain(member)] == [Kind.NODE]


def test_an_ended_tenure_and_its_return(holder: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tenure is over that is told once, with no event for each image; then that it serves again."""
    drain(holder)
    with monkeypatch.context() as patch:
        patch.setattr(holder, "ahead", 60.0)
        for _ in range(4):
            holder.turn()
    told = drain(holder)
    assert words(told) == ["node: may not serve now"]
    assert "tenure is over" in told[0].why
    holder.settle()
    assert [text.partition(",")[0] for text in words(drain(holder))] == [
        "node: may serve again",
        "fence: fenced the clients of gw1",
        "image: serves it",
    ]


def test_what_the_guard_did_is_told(holder: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that finds the tenure over and the kernel empty tells that nothing was left to withdraw."""
    drain(holder)
    state = holder.kernel.state
    empty = replace(state, devices=(), targets=(), mappings=(), addresses={}, cuts=frozenset())
    holder.kernel.state = empty
    monkeypatch.setattr(holder, "ahead", 60.0)
    holder.turn()
    assert words(drain(holder)) == ["node: may not serve now, and nothing is left here that did"]


def test_a_fenced_node_tells_why_it_leaves_and_joins_anew(holder: Member) -> None:
    """A node whose client is on the blocklist tells that, and when it is back under a new lease, what was before."""
    drain(holder)
    before = holder.lease
    holder.membership.resign("this node's client is on Ceph's blocklist", holder.lease)
    holder.settle()
    assert holder.lease != before
    told = drain(holder)
    assert words(told)[:3] == ["node: may not serve now", "node: joined", "image: claimed"]
    assert "blocklist" in told[0].why
    assert "blocklist" in told[1].why


def test_fences_that_vanished_are_told(holder: Member, join: Join) -> None:
    """Entries that somebody took off the blocklist are put there again, and that is told by whoever did it."""
    taker = join("gw2")
    taker.settle()
    end_lease(holder)
    taker.settle()
    drain(taker)
    entries = set(taker.cluster.pool.blocklist)
    taker.cluster.pool.blocklist.clear()
    taker.cycle._blocklist_checked = -1000.0  # in place of a minute of turns
    taker.turn()
    assert taker.cluster.pool.blocklist == entries
    told = [event for event in drain(taker) if event.kind is Kind.FENCE]
    assert len(told) == 1
    assert all(str(entry) in told[0].text for entry in entries)


def test_an_obstacle_is_told_when_it_lasts(tmp_path: Path) -> None:
    """What keeps a node from taking images at its start is no event; what lasts is one, and its end another."""
    member = Member(Cluster(NETWORKS, ()), "gw1", tmp_path)
    member.link.reason = "no monitor answers"
    member.start()
    for _ in range(3):
        member.turn()
    assert words(drain(member)) == ["node: joined"]  # though the anchor could not be mapped
    member.ahead = OBSTACLE_LASTS / 2
    member.turn()
    assert drain(member) == []
    member.cycle._narrator._obstacle_since = -1000.0  # a tenure would end before such a time has passed
    for _ in range(2):
        member.turn()
    told = drain(member)
    assert words(told) == ["node: can take no image"]
    assert "no monitor answers" in told[0].why
    member.link.reason, member.ahead = "", 0.0
    member.settle()
    assert words(drain(member)) == ["node: can take images again"]
    member.stop()
