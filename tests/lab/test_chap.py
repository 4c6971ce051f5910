"""CHAP in a real kernel with a real initiator: who gets in, who does not, and that there is never a moment without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.lab.test_lio import SPEC, clean

if TYPE_CHECKING:  # the plugin below imports it, and pytest wants to be the first
    from tests.lab.bare import Rooms

pytest_plugins = ("tests.lab.bare",)

PORTAL = "10.77.1.100"
IQN = "iqn.2026-11.io.rbdgate:room1"
OTHER = "iqn.2026-11.io.rbdgate:other"
ONE, TWO, OWN = "first-secret-1", "second-secret2", "targets-secret"
REFUSED, MUTUAL_REFUSED = 24, 19  # open-iscsi's login failures: the target refuses us; we refuse what the target says

CHAP = f"""
ini1, other = Iqn("iqn.2026-11.io.rbdgate:ini1"), Iqn("{OTHER}")
one_way = Credentials("alice", Secret("{ONE}"))
rotated = Credentials("alice", Secret("{TWO}"))
mutual = Credentials("alice", Secret("{ONE}"), "us", Secret("{OWN}"))
nobody = Access({{}})

def allow(wanted, demanded=True, remove=()):
    lio.set_acls(q, wanted, remove, demanded=demanded)
    say(access_differences(Access(wanted), lio.observe_target(q)))
"""


@pytest.fixture
def gw(rooms: Rooms) -> Iterator[Rooms]:
    """One export on gw1, open to nobody, that the initiator knows of by name."""
    clean(rooms)
    rooms.python("gw1", SPEC, CHAP, "s = spec(paths=('10.77.1.100',)); export(s, access=nobody)")
    forget(rooms)
    rooms.sh("ini1", f"iscsiadm -m node -T {IQN} -p {PORTAL} -o new")
    yield rooms
    rooms.python("gw1", SPEC, "lio.set_discovery(None)")
    clean(rooms)


def forget(rooms: Rooms) -> None:
    """Have the initiator forget every credential it was told."""
    rooms.sh(
        "ini1",
        "iscsiadm -m node -u; iscsiadm -m node -o delete; iscsiadm -m discoverydb -t st -o delete"
        f" -p {PORTAL}; iscsiadm -m iface -I other -o delete; iscsiadm -m iface -I mine -o delete; true",
        check=False,
    )


def use(rooms: Rooms, **settings: str) -> None:
    """Tell the initiator's record of the target how to authenticate: `method`, or one of open-iscsi's own words."""
    names = {"method": "authmethod", "user": "username", "secret": "password"}
    names |= {"target": "username_in", "target_secret": "password_in"}
    for word, value in settings.items():
        name = f"node.session.auth.{names[word]}"
        rooms.sh("ini1", f"iscsiadm -m node -T {IQN} -p {PORTAL} -o update -n {name} -v '{value}'")


def log_in(rooms: Rooms, options: str = "") -> int:
    """Try to log in; open-iscsi's exit status, with the session ended again if there was one."""
    node = f"iscsiadm -m node -T {IQN} -p {PORTAL} {options}"
    status = int(rooms.sh("ini1", f"{node} -l >/dev/null 2>&1; echo $?").split()[-1])
    if status == 0:
        rooms.sh("ini1", f"{node} -u")
    return status


def test_the_right_secret_and_nothing_else(gw: Rooms) -> None:
    """One-way: nothing, a wrong secret and another user's name are refused; the right ones get in, and a rotated
    secret shuts the old one out at once."""
    assert gw.python("gw1", SPEC, CHAP, "allow({ini1: one_way})") == [[]]
    assert log_in(gw) == REFUSED
    use(gw, method="CHAP", user="alice", secret=TWO)
    assert log_in(gw) == REFUSED
    use(gw, secret=ONE)
    assert log_in(gw) == 0
    use(gw, user="alice2")
    assert log_in(gw) == REFUSED
    use(gw, user="alice")
    assert gw.python("gw1", SPEC, CHAP, "allow({ini1: rotated})") == [[]]
    assert log_in(gw) == REFUSED
    use(gw, secret=TWO)
    assert log_in(gw) == 0
    assert gw.python("gw1", SPEC, CHAP, "allow({ini1: None}, demanded=False)") == [[]]
    use(gw, method="None", user="", secret="")
    assert log_in(gw) == 0


@pytest.mark.full
def test_mutual(gw: Rooms) -> None:
    """The initiator goes away from a target that does not prove itself, or wrongly; one-way again, it does too."""
    assert gw.python("gw1", SPEC, CHAP, "allow({ini1: mutual})") == [[]]
    use(gw, method="CHAP", user="alice", secret=ONE, target="us", target_secret=TWO)
    assert log_in(gw) == MUTUAL_REFUSED
    use(gw, target_secret=OWN)
    assert log_in(gw) == 0
    use(gw, target="them")
    assert log_in(gw) == MUTUAL_REFUSED
    use(gw, target="us")
    assert gw.python("gw1", SPEC, CHAP, "allow({ini1: one_way})") == [[]]
    assert log_in(gw) == MUTUAL_REFUSED


@pytest.mark.full
def test_each_initiator_has_its_own(gw: Rooms) -> None:
    """On one image, one initiator needs CHAP and another none: neither's way serves the other."""
    assert gw.python("gw1", SPEC, CHAP, "allow({ini1: one_way, other: None})") == [[]]
    gw.sh("ini1", f"iscsiadm -m node -T {IQN} -p {PORTAL} -o delete")
    for name, iqn in (("mine", "iqn.2026-11.io.rbdgate:ini1"), ("other", OTHER)):
        gw.sh("ini1", f"iscsiadm -m iface -I {name} -o new")
        gw.sh("ini1", f"iscsiadm -m iface -I {name} -o update -n iface.initiatorname -v {iqn}")
        assert IQN in gw.sh("ini1", f"iscsiadm -m discovery -t st -p {PORTAL} -I {name} -o new")
    assert log_in(gw, "-I mine") == REFUSED
    assert log_in(gw, "-I other") == 0
    assert gw.python("gw1", SPEC, CHAP, "allow({ini1: None, other: rotated})") == [[]]
    assert log_in(gw, "-I mine") == 0
    assert log_in(gw, "-I other") == REFUSED


def test_sessions_outlive_a_change_of_secrets(gw: Rooms) -> None:
    """What is logged in stays the same session through every change, without and with CHAP; a denial ends it."""
    gw.python("gw1", SPEC, CHAP, "allow({ini1: None}, demanded=False)")
    gw.sh("ini1", f"iscsiadm -m node -T {IQN} -p {PORTAL} -l")
    changes = ("one_way", "rotated", "mutual", "one_way", "None")
    found = gw.python(
        "gw1",
        SPEC,
        CHAP,
        "def isids(): return [x.isid for x in lio.sessions(q)]",
        "before = isids()",
        """
        def change(to):
            lio.set_acls(q, {ini1: to}, [], demanded=to is not None)
            say([isids() == before, len(before)])
        """,
        *(f"change({to})" for to in changes),
        "lio.set_acls(q, {}, [ini1], demanded=False); say(isids())",
    )
    assert found == [[True, 1]] * 5 + [[]]


@pytest.mark.full
def test_there_is_never_a_moment_without(gw: Rooms) -> None:
    """While secrets are rotated, and the initiator denied and allowed again, a login without any never gets in."""
    with gw.background(
        "gw1",
        "env",
        "PYTHONPATH=/run/rbdgate-rooms",
        "/opt/rbdgate/bin/python",
        "-c",
        "exec(__import__('sys').stdin.read())",
        script=gw.script(
            SPEC,
            CHAP,
            "end = time.monotonic() + 20",
            """
            while time.monotonic() < end:
                for wanted in (one_way, rotated, mutual, one_way):
                    lio.set_acls(q, {ini1: wanted}, [], demanded=True)
                lio.set_acls(q, {}, [ini1], demanded=False)
            """,
        ),
    ):
        statuses = {log_in(gw) for _ in range(12)}
    assert 0 not in statuses
    assert statuses <= {REFUSED, MUTUAL_REFUSED, 8}, statuses  # 8: the target was being changed at that moment


@pytest.mark.full
def test_an_older_export_is_closed_without_a_break(gw: Rooms) -> None:
    """A TPG that asks nobody, and ACLs that leave it to the TPG, as former versions made them, are made right with
    their session on them."""
    gw.python("gw1", SPEC, CHAP, "allow({ini1: None, other: None}, demanded=False)")
    acls = f"/sys/kernel/config/target/iscsi/{IQN}/tpgt_1"
    gw.sh(
        "gw1",
        f"for a in {acls}/acls/*; do echo -1 > $a/attrib/authentication; done; echo 0 > {acls}/attrib/authentication",
    )
    gw.sh("ini1", f"iscsiadm -m node -T {IQN} -p {PORTAL} -l")
    said = gw.python(
        "gw1",
        SPEC,
        CHAP,
        "before = [x.isid for x in lio.sessions(q)]",
        "say(len(access_differences(Access({ini1: None, other: one_way}), lio.observe_target(q))))",
        "allow({ini1: None, other: one_way})",
        "say([x.isid for x in lio.sessions(q)] == before)",
    )
    assert said == [3, [], True]


def test_discovery(gw: Rooms) -> None:
    """Open, then with credentials, rotated, closed to all, and open again; a login does not care."""
    gw.python("gw1", SPEC, CHAP, "allow({ini1: None}, demanded=False)")
    plain = f"iscsiadm -m discovery -t st -p {PORTAL} 2>&1; true"
    assert IQN in gw.sh("ini1", plain)
    for credentials, secret in (("one_way", ONE), ("rotated", TWO)):
        gw.python("gw1", SPEC, CHAP, f"lio.set_discovery({credentials})")
        assert IQN not in gw.sh("ini1", plain)
        assert IQN in gw.sh("ini1", discover(secret))
        assert IQN not in gw.sh("ini1", discover(OWN))
        assert log_in(gw) == 0
    gw.python("gw1", SPEC, CHAP, "lio.set_discovery(None); lio.close_discovery()")
    assert IQN not in gw.sh("ini1", plain)
    assert IQN not in gw.sh("ini1", discover(TWO))
    (now,) = gw.python(
        "gw1", SPEC, CHAP, "lio.set_discovery(None); d = lio.observe_discovery(); say([d.enforced, len(d.auth)])"
    )
    assert now == [False, 0]
    assert IQN in gw.sh("ini1", plain)


@pytest.mark.full
def test_mutual_discovery(gw: Rooms) -> None:
    """A portal that proves itself tells the initiator its targets; from one that does so wrongly it takes nothing."""
    gw.python("gw1", SPEC, CHAP, "lio.set_acls(q, {ini1: None}, [], demanded=False); lio.set_discovery(mutual)")
    assert IQN in gw.sh("ini1", discover(ONE, target_user="us", target_secret=OWN))
    assert IQN not in gw.sh("ini1", discover(ONE, target_user="us", target_secret=TWO))
    assert IQN not in gw.sh("ini1", discover(ONE, target_user="them", target_secret=OWN))
    assert IQN not in gw.sh("ini1", discover(TWO, target_user="us", target_secret=OWN))
    gw.python("gw1", SPEC, CHAP, "lio.set_discovery(one_way)")
    assert IQN not in gw.sh("ini1", discover(ONE, target_user="us", target_secret=OWN))


def discover(secret: str, target_user: str = "", target_secret: str = "") -> str:
    """Discover as alice; with credentials for the target, the portal has to prove itself as well."""
    record = f"iscsiadm -m discoverydb -t st -p {PORTAL}"
    settings = {"authmethod": "CHAP", "username": "alice", "password": secret}
    if target_user:
        settings |= {"username_in": target_user, "password_in": target_secret}
    updates = "; ".join(f"{record} -o update -n discovery.sendtargets.auth.{k} -v {v}" for k, v in settings.items())
    return f"({record} -o new; {updates}) >/dev/null 2>&1; {record} --discover 2>&1; true"


def test_what_is_set_is_read_back_and_never_shown(gw: Rooms) -> None:
    """What was written compares equal, the longest values too; the dump for a bug report and every repr hide it."""
    said = gw.python(
        "gw1",
        SPEC,
        CHAP,
        """
        from gateway.lio.dump import dump
        longest = Credentials("u" * 255, Secret("x" * 255), "m" * 255, Secret("y" * 255))
        allow({ini1: longest})
        lio.set_acls(q, {ini1: mutual}, [], demanded=True)
        lio.set_discovery(mutual)
        say(repr(lio.observe_target(q)) + repr(lio.observe_discovery()))
        say(dump())
        """,
    )
    assert said[0] == []
    text = json.dumps(said[1:])
    assert "***" in text
    for secret in (ONE, TWO, OWN):
        assert secret not in text
