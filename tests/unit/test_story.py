"""What `rbdgate events --image` tells of last night: who had the image, why it went, and the seconds of each phase."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from textwrap import dedent

from gateway.cli.story import story
from gateway.events import Event, Kind

NIGHT = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 8, 0, 0, tzinfo=timezone(timedelta(hours=1)))
OPERATOR = "operator root@gw1"
PHASES = {"detect": 0.01, "claim": 0.02, "fence": 0.14, "map": 0.09, "restore": 0.03, "export": 0.2, "announce": 0.01}


class Log:
    """Events as they are told, `after` seconds into the night."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, after: float, event: Event) -> Event:
        """Write one down."""
        time = (NIGHT + timedelta(seconds=after)).isoformat(timespec="milliseconds")
        image = "" if event.kind is Kind.NODE else "rbd/disk1"
        told = replace(event, time=time, image=image, revision=len(self.events) + 1, who=event.who or event.node)
        self.events.append(told)
        return told

    def told(self) -> str:
        """The story of the image."""
        about = [event for event in self.events if event.image]
        return "".join(line.rstrip() + "\n" for line in story(self.events, about, NOW).splitlines())


def serves(node: str, trace: str, seconds: float, phases: dict[str, float]) -> Event:
    """An end of a takeover."""
    text = "serves it, 2 of 2 paths up (claim 0.02 s)"
    return Event(Kind.IMAGE, text, node=node, trace=trace, seconds=seconds, phases=phases)


def test_a_night_of_three_gateways() -> None:
    """A first claim, a lost path, a death and a takeover, a move by hand: in order, with everybody's part."""
    log = Log()
    log.tell(0, Event(Kind.OPERATOR, "rbdgate image create rbd/disk1 --size 1G", who=OPERATOR))
    log.tell(1, Event(Kind.IMAGE, "claimed", "gw2: its turn among 3 nodes", node="gw2", trace="claim-7"))
    log.tell(1.3, serves("gw2", "claim-7", 0.31, {"detect": 0.02, "claim": 0.02}))
    log.tell(1200, Event(Kind.PATH, "path 2 (10.0.2.100, storage-2) is down", "no link", node="gw2", trace="claim-8"))
    log.tell(3600, Event(Kind.NODE, "is not live any more", "its lease ran out", node="gw2", who="gw1"))
    log.tell(3600, Event(Kind.NODE, "is not live any more", "its lease ran out", node="gw4", who="gw1"))
    log.tell(3600.1, Event(Kind.IMAGE, "claimed", "gw3: its turn among 2 nodes", node="gw3", trace="claim-8"))
    fenced = "fenced the clients of gw2, confirmed: 10.0.1.12:0/1"
    log.tell(3600.3, Event(Kind.FENCE, fenced, node="gw2", trace="claim-8", who="gw3"))
    log.tell(3600.7, serves("gw3", "claim-8", 0.61, PHASES))
    log.tell(9000, Event(Kind.OPERATOR, "rbdgate image move rbd/disk1 --to gw2", "repaired", who=OPERATOR))
    log.tell(9000.5, Event(Kind.IMAGE, "let go of it", "it moves to gw2", node="gw3", trace="claim-9", seconds=0.4))
    log.tell(9001, Event(Kind.IMAGE, "claimed", "gw2: moved here: an operator's move", node="gw2", trace="claim-9"))
    log.tell(9900, Event(Kind.OPERATOR, "rbdgate image resize rbd/disk1 --size 2G", who=OPERATOR))
    assert log.told() == dedent("""\
        nobody -> gw2, 2026-11-22 04:04:06+01:00 (3 h 55 min ago), served after 0.31 s [claim-7]
          why: gw2: its turn among 3 nodes
          detect 0.02 s, claim 0.02 s
          2026-11-22 04:04:05.000+01:00  operator root@gw1  rbdgate image create rbd/disk1 --size 1G
          2026-11-22 04:04:06.000+01:00  gw2                claimed: gw2: its turn among 3 nodes
          2026-11-22 04:04:06.300+01:00  gw2                serves it, 2 of 2 paths up [0.31 s]

        gw2 -> gw3, 2026-11-22 05:04:05+01:00 (2 h 55 min ago), served after 0.61 s [claim-8]
          why: gw3: its turn among 2 nodes
          detect 0.01 s, claim 0.02 s, fence 0.14 s, map 0.09 s, restore 0.03 s, export 0.20 s, announce 0.01 s
          2026-11-22 04:24:05.000+01:00  gw2  path 2 (10.0.2.100, storage-2) is down: no link
          2026-11-22 05:04:05.000+01:00  gw1  gw2: is not live any more: its lease ran out
          2026-11-22 05:04:05.100+01:00  gw3  claimed: gw3: its turn among 2 nodes
          2026-11-22 05:04:05.300+01:00  gw3  fenced the clients of gw2, confirmed: 10.0.1.12:0/1
          2026-11-22 05:04:05.700+01:00  gw3  serves it, 2 of 2 paths up [0.61 s]

        gw3 -> gw2, 2026-11-22 06:34:06+01:00 (1 h 25 min ago), not served yet [claim-9]
          why: gw2: moved here: an operator's move
          2026-11-22 06:34:05.000+01:00  operator root@gw1  rbdgate image move rbd/disk1 --to gw2: repaired
          2026-11-22 06:34:05.500+01:00  gw3                let go of it [0.40 s]: it moves to gw2
          2026-11-22 06:34:06.000+01:00  gw2                claimed: gw2: moved here: an operator's move

        2026-11-22 06:49:05.000+01:00  operator root@gw1  rbdgate image resize rbd/disk1 --size 2G
        """)


def test_a_first_claim_and_what_ends_it_are_two_chapters() -> None:
    """They bear one trace, for the first has no former claim to be named by. What was given back unserved says so."""
    log = Log()
    log.tell(0, Event(Kind.IMAGE, "claimed", "gw3: the next of 3 nodes", node="gw3", trace="claim-7"))
    log.tell(3, serves("gw3", "claim-7", 3.19, {}))
    log.tell(40, Event(Kind.IMAGE, "claimed", "gw2: the next of 2 nodes", node="gw2", trace="claim-7"))
    log.tell(40.1, Event(Kind.FENCE, "fenced the clients of gw3", node="gw3", trace="claim-7", who="gw2"))
    log.tell(42, serves("gw2", "claim-7", 2.83, {}))
    log.tell(50, Event(Kind.IMAGE, "let go of it", "it moves to gw3", node="gw2", trace="claim-8"))
    log.tell(51, Event(Kind.IMAGE, "claimed", "gw1: the next of 2 nodes", node="gw1", trace="claim-8"))
    log.tell(52, Event(Kind.IMAGE, "let go of it", "it moves to gw3", node="gw1", trace="claim-9"))
    headings = [
        line.partition(", 2026")[0] + line.rpartition("ago)")[2] for line in log.told().splitlines() if "[claim" in line
    ]
    assert headings == [
        "nobody -> gw3, served after 3.19 s [claim-7]",
        "gw3 -> gw2, served after 2.83 s [claim-7]",
        "gw2 -> gw1, not served [claim-8]",
        "gw1 -> nobody yet, not served yet [claim-9]",
    ]


def test_a_partition_is_told_as_it_happened() -> None:
    """The holder that was cut off writes its part when it is back: it stands where it happened, not at the end."""
    log = Log()
    log.tell(0, Event(Kind.IMAGE, "claimed", node="gw2", trace="claim-7"))
    log.tell(1, serves("gw2", "claim-7", 1.0, {}))
    log.tell(3610.1, Event(Kind.NODE, "is not live any more", node="gw2", who="gw1"))
    log.tell(3610.2, Event(Kind.IMAGE, "claimed", "its turn", node="gw3", trace="claim-8"))
    log.tell(3610.5, Event(Kind.FENCE, "fenced the clients of gw2", node="gw2", trace="claim-8", who="gw3"))
    log.tell(3612, serves("gw3", "claim-8", 1.8, {"fence": 0.3}))
    log.tell(3603, Event(Kind.PATH, "path 2 is down", "no link", node="gw2", trace="claim-8"))
    log.tell(3608, Event(Kind.NODE, "may not serve now", "the tenure is over", node="gw2"))
    log.tell(3609.5, Event(Kind.FAULT, "teardown failed", node="gw2", trace="claim-8"))
    log.tell(3800, Event(Kind.NODE, "joined", node="gw2"))
    assert log.told().partition("\n\n")[2] == dedent("""\
        gw2 -> gw3, 2026-11-22 05:04:15+01:00 (2 h 55 min ago), served after 1.80 s [claim-8]
          why: its turn
          fence 0.30 s
          2026-11-22 05:04:08.000+01:00  gw2  path 2 is down: no link
          2026-11-22 05:04:13.000+01:00  gw2  may not serve now: the tenure is over
          2026-11-22 05:04:14.500+01:00  gw2  teardown failed
          2026-11-22 05:04:15.100+01:00  gw1  gw2: is not live any more
          2026-11-22 05:04:15.200+01:00  gw3  claimed: its turn
          2026-11-22 05:04:15.500+01:00  gw3  fenced the clients of gw2
          2026-11-22 05:04:17.000+01:00  gw3  serves it, 2 of 2 paths up [1.80 s]
        """)


def test_what_was_given_away_is_no_change_of_hands_for_being_told_late() -> None:
    """A holder whose word had to wait for etcd let go before the next one claimed: it is one change, and it ended."""
    log = Log()
    log.tell(10.1, Event(Kind.IMAGE, "claimed", "moved here", node="gw2", trace="claim-7"))
    log.tell(11.4, serves("gw2", "claim-7", 1.3, {}))
    log.tell(10, Event(Kind.IMAGE, "let go of it", "it moves to gw2", node="gw1", trace="claim-7"))
    heading, _, *lines = log.told().splitlines()
    assert heading.partition(",")[0] == "gw1 -> gw2"
    assert [line.split()[3] for line in lines] == ["let", "claimed:", "serves"]


def test_clocks_that_differ_a_little_change_no_order() -> None:
    """What one writer saw of another comes after it, though its clock says otherwise; so does a command."""
    log = Log()
    log.tell(10, Event(Kind.IMAGE, "let go of it", node="gw1", trace="claim-7"))
    log.tell(9.1, Event(Kind.IMAGE, "claimed", node="gw2", trace="claim-7"))
    log.tell(9.9, serves("gw2", "claim-7", 0.8, {}))
    log.tell(-10, Event(Kind.OPERATOR, "rbdgate image stop rbd/disk1", who=OPERATOR))
    log.tell(13, Event(Kind.IMAGE, "let go of it", node="gw2", trace="claim-8"))
    log.tell(-3600, Event(Kind.FAULT, "the fault is over", node="gw3", trace="claim-8"))
    words = [line.split()[3] for line in log.told().splitlines() if line.startswith("  2026")]
    assert words == ["let", "claimed", "serves", "root@gw1", "let", "the"]


def test_what_changed_nobody_has_no_heading() -> None:
    """Events that belong to no change of hands are lines."""
    log = Log()
    log.tell(0, Event(Kind.OPERATOR, "rbdgate initiator allow rbd/disk1 iqn.a:b", who=OPERATOR))
    assert log.told() == "2026-11-22 04:04:05.000+01:00  operator root@gw1  rbdgate initiator allow rbd/disk1 iqn.a:b\n"


def test_events_of_an_older_version() -> None:
    """Without phases, with times that are none, and with the trace of then: told as far as it goes."""
    claimed = Event(Kind.IMAGE, "claimed", node="gw1", trace="claim 7", who="gw1", time="noon", image="rbd/disk1")
    assert story([claimed], [claimed], NOW) == "nobody -> gw1, noon, not served yet [claim 7]\n  noon  gw1  claimed"
