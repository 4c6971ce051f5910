"""A node gives its images up for Ceph's silence only where another one has shown, since, that Ceph answers."""

from __future__ import annotations

from dataclasses import replace

from agent.storage_loss import StorageLoss, Witness
from gateway.model import NOT_ANSWERED, ClusterView, Instance, Label, LiveNode, NodeRecord, NodeState
from gateway.timers import Timers
from tests.unit.test_plan import world

TIMERS = Timers()
ME, OTHER = Label("gw1"), Label("gw2")
CLIENTS = (Instance("10.0.0.1:0/1"), Instance("10.0.0.1:0/2"))


def node(name: Label, *, obstacle: str = "", answered: int = 0, revision: int = 0) -> LiveNode:
    """A live node's word."""
    return LiveNode(name, 1, "boot", "1", (), CLIENTS, obstacle=obstacle, answered=answered, revision=revision)


def view_of(*words: LiveNode, revision: int = 100, state: NodeState = NodeState.ACTIVE) -> ClusterView:
    """A cluster with those nodes, all of them in that state."""
    view = world(nodes=1)[0].state
    live = {word.name: word for word in words}
    return replace(view, live=live, nodes=dict.fromkeys(live, NodeRecord(state)), revision=revision)


SILENT = node(ME, obstacle=NOT_ANSWERED, revision=50)


def reason(view: ClusterView, loss: StorageLoss | None = None) -> str | None:
    """What is decided after all times have long passed, with the view unchanged."""
    loss = loss or StorageLoss(TIMERS)
    loss.reason(view, ME, silence=TIMERS.storage_doubt, running=1000.0)
    return loss.reason(view, ME, silence=1000.0, running=2000.0)


def test_another_that_was_answered_since_makes_a_node_give_up() -> None:
    """The reason names the witness and the time."""
    said = reason(view_of(SILENT, node(OTHER, answered=50)))
    assert said == "Ceph has not answered this node for 1000 s, and it answers gw2"


def test_nobody_to_take_over_means_nobody_gives_up() -> None:
    """Alone, or among nodes that cannot serve, silence is borne: it would hang anywhere."""
    assert reason(view_of(SILENT)) is None
    assert reason(view_of(SILENT, node(OTHER, obstacle=NOT_ANSWERED, answered=50))) is None
    assert reason(view_of(SILENT, node(OTHER, answered=50), state=NodeState.MAINTENANCE)) is None


def test_a_word_older_than_the_question_proves_nothing() -> None:
    """A node without an obstacle may just not have noticed: only an answer after this node had asked counts."""
    assert reason(view_of(SILENT, node(OTHER))) is None
    assert reason(view_of(SILENT, node(OTHER, answered=49))) is None


def test_a_node_that_has_not_asked_gives_nothing_up() -> None:
    """Silence that others cannot read of in this node's word yet is no reason."""
    assert reason(view_of(node(ME), node(OTHER, answered=50))) is None


def test_both_times_must_pass() -> None:
    """The silence lasts `storage_loss`, and another was answered for `storage_doubt` of it."""
    view, loss = view_of(SILENT, node(OTHER, answered=50)), StorageLoss(TIMERS)
    assert loss.reason(view, ME, silence=TIMERS.storage_loss + 5, running=100.0) is None
    late = 100.0 + TIMERS.storage_doubt
    assert loss.reason(view, ME, silence=TIMERS.storage_loss + 5, running=late - 0.1) is None
    assert loss.reason(view, ME, silence=TIMERS.storage_loss - 0.1, running=late) is None
    assert loss.reason(view, ME, silence=TIMERS.storage_loss, running=late) is not None


def test_whoever_heals_a_moment_later_keeps_its_images() -> None:
    """After an outage for all the first healed proves Ceph at once; the others have their time to heal."""
    away, loss = view_of(SILENT, node(OTHER, obstacle=NOT_ANSWERED)), StorageLoss(TIMERS)
    assert loss.reason(away, ME, silence=60.0, running=60.0) is None
    healed = view_of(SILENT, node(OTHER, answered=50))
    assert loss.reason(healed, ME, silence=61.0, running=61.0) is None
    assert loss.reason(healed, ME, silence=0.5, running=64.0) is None
    assert loss.reason(healed, ME, silence=20.0, running=84.0) is None


def test_a_witness_that_falls_silent_is_none_any_more() -> None:
    """The time begins anew with the next one."""
    loss = StorageLoss(TIMERS)
    loss.reason(view_of(SILENT, node(OTHER, answered=50)), ME, silence=20.0, running=20.0)
    loss.reason(view_of(SILENT, node(OTHER, obstacle=NOT_ANSWERED, answered=50)), ME, silence=25.0, running=25.0)
    assert loss.reason(view_of(SILENT, node(OTHER, answered=50)), ME, silence=30.0, running=30.0) is None


ASKING = view_of(node(ME), node(OTHER, obstacle=NOT_ANSWERED, revision=80))


def test_only_an_answer_to_what_was_sent_later_is_shown() -> None:
    """What is written is the revision that had been read before the read of Ceph was sent."""
    witness = Witness()
    assert witness.asked(ASKING, ME, 7.0) == 7.0
    assert witness.said(7.0) == 0
    assert witness.said(7.1) == 100
    assert witness.asked(ASKING, ME, 9.0) is None


def test_nobody_asks_and_nothing_is_written() -> None:
    """Without a node that is not answered the word stays as it is, whatever Ceph answers."""
    witness = Witness()
    for other in (node(OTHER), node(OTHER, obstacle="the guard is not running", revision=80)):
        assert witness.asked(view_of(node(ME), other), ME, 7.0) is None
        assert witness.said(99.0) == 0


def test_who_asks_again_is_shown_again() -> None:
    """A newer question needs a newer answer, and one that is asked while another is open does not hold it up."""
    witness = Witness()
    witness.asked(ASKING, ME, 7.0)
    assert witness.asked(ASKING, ME, 8.0) == 7.0
    newer = view_of(node(ME), node(OTHER, obstacle=NOT_ANSWERED, revision=120), revision=130)
    assert witness.asked(newer, ME, 9.0) == 9.0
    assert witness.said(8.0) == 0
    assert witness.said(9.5) == 130


def test_a_successor_knows_what_was_said() -> None:
    """What stands in the word already is not asked for again."""
    view = replace(ASKING, live={**ASKING.live, ME: node(ME, answered=90)})
    witness = Witness()
    assert witness.asked(view, ME, 7.0) is None
    assert witness.said(99.0) == 90
