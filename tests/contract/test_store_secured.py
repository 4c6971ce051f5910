"""Certificates and users, on real members: what is wrong is said, mended without a restart, and renewed unnoticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from gateway.errors import StoreRefused, StoreUnavailable
from gateway.store.client import EtcdClient
from gateway.store.papers import NotRenewed, Papers, Renewed
from gateway.store.security import Security
from gateway.store.values import Put
from tests.authority import Authority, replace_file
from tests.contract.documented import PASSWORD
from tests.contract.etcd_load import Load, Verdict
from tests.contract.secured import PREFIX, Secured

pytest_plugins = ["tests.contract.secured_fixtures"]

ENDED = timedelta(days=-1)
STRANGER = Authority("a stranger")

BOUND = 8.0
"""Seconds in which a client finds by itself that something was mended: a look, a renewal, and a call's bound."""

UNNOTICED = 1.5
"""Seconds a write, a keepalive or a watch may take meanwhile: one call's bound, of the 4 s that a tenure allows for."""


def within(seconds: float, holds: Callable[[], bool]) -> None:
    """Return when it holds; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s"
        threading.Event().wait(0.05)


def answers(client: EtcdClient) -> bool:
    """Whether etcd answers a read now."""
    try:
        client.get(PREFIX + "x", timeout=1.0)
    except (StoreUnavailable, StoreRefused):
        return False
    return True


def _root(on: Secured, *words: str) -> None:
    on.root(*words)


def _make_user(on: Secured) -> None:
    on.root("user", "add", "rbdgate", "--interactive=false", said=PASSWORD)
    on.root("user", "grant-role", "rbdgate", "rbdgate")


FAULTS: dict[str, tuple[Callable[[Secured], None], Callable[[Secured], None], str]] = {
    "member's certificate ended": (
        lambda on: on.certify(lasts=ENDED),
        lambda on: on.certify(),
        "its certificate has expired",
    ),
    "member's certificate of a stranger": (
        lambda on: on.certify(STRANGER),
        lambda on: on.certify(),
        r"from no authority in etcd\.ca_file",
    ),
    "member's certificate with another name": (
        lambda on: on.certify(addresses=("192.0.2.1",)),
        lambda on: on.certify(),
        "does not carry the name or address",
    ),
    "authority of a stranger": (
        lambda on: on.trust(STRANGER),
        lambda on: on.trust(on.authority),
        r"from no authority in etcd\.ca_file",
    ),
    "own certificate ended": (
        lambda on: on.show(on.authority.issue("gw1", lasts=ENDED)),
        lambda on: on.show(on.authority.issue("gw1")),
        "refuses this node's certificate",
    ),
    "own certificate of a stranger": (
        lambda on: on.show(STRANGER.issue("gw1")),
        lambda on: on.show(on.authority.issue("gw1")),
        "refuses this node's certificate",
    ),
    "wrong password": (
        lambda on: on.write_password("wrong"),
        lambda on: on.write_password(PASSWORD),
        r"etcd refuses user rbdgate with the password in .*/gateway/password",
    ),
    "role taken away": (
        lambda on: _root(on, "user", "revoke-role", "rbdgate", "rbdgate"),
        lambda on: _root(on, "user", "grant-role", "rbdgate", "rbdgate"),
        "does not have these keys",
    ),
    "user deleted": (
        lambda on: _root(on, "user", "delete", "rbdgate"),
        _make_user,
        "etcd refuses user rbdgate",
    ),
}


def test_faults_are_named_and_mended_without_a_restart(secured: Secured) -> None:
    """Each fault is one error that says what is wrong and at which member; the same client works when it is mended."""
    for name, (break_it, mend, words) in FAULTS.items():
        break_it(secured)
        client = secured.client()
        with pytest.raises((StoreUnavailable, StoreRefused), match=rf"127\.[\d.:]+: .*{words}"):
            client.get(PREFIX + "x", timeout=1.0)
        mend(secured)
        within(BOUND, lambda of=client: answers(of))  # type: ignore[misc]
        assert answers(client), name


def test_etcd_that_speaks_otherwise(secured: Secured) -> None:
    """A client without TLS, and one without a certificate, are told which member refuses them and why."""
    plain = EtcdClient(secured.endpoints)
    with pytest.raises(StoreUnavailable, match=r"127\.[\d.:]+: it closed the connection at once"):
        plain.get(PREFIX, timeout=1.0)
    plain.close()
    bare = secured.client(Papers(Security(ca_file=secured.security.ca_file)))
    with pytest.raises(StoreUnavailable, match="or the lack of one"):
        bare.get(PREFIX, timeout=1.0)


def test_a_certificate_that_names_no_user_is_not_enough(secured: Secured) -> None:
    """Without a user in the settings etcd takes the certificate's name for one; a gateway's names none."""
    one = secured.security
    client = secured.client(Papers(Security(one.ca_file, one.certificate_file, one.key_file)))
    with pytest.raises(StoreRefused, match="does not have these keys"):
        client.get(PREFIX)
    secured.show(secured.authority.issue("rbdgate"))
    within(BOUND, lambda: answers(client))


def unnoticed(verdict: Verdict) -> None:
    """Nothing was lost or refused, and nothing took long."""
    assert verdict.errors == ()
    assert verdict.counted == verdict.writes
    assert verdict.watch_is_right
    assert max(verdict.longest_write, verdict.longest_keepalive, verdict.longest_watch) < UNNOTICED


@pytest.fixture
def papers(secured: Secured) -> Papers:
    """A gateway's, shared by the clients of a load."""
    return secured.papers()


def load_on(on: Secured, papers: Papers) -> Load:
    """A load that goes on already."""
    load = Load(on.endpoints, PREFIX + "load/", papers)
    on.closing.callback(load.abandon)
    load.start()
    load.wait_for_writes(20, BOUND)
    return load


def test_a_certificate_is_renewed_unnoticed(secured: Secured, papers: Papers) -> None:
    """Key first and certificate later: the mismatch is told and costs nothing, then all clients use the new pair."""
    load = load_on(secured, papers)
    before = [client.connection for client in load.clients]
    ended = papers.certificate_expiry
    pair = secured.authority.issue("gw1", lasts=timedelta(days=200))
    assert secured.security.key_file is not None
    replace_file(secured.security.key_file, pair.key, 0o600)
    within(BOUND, lambda: bool(secured.news))
    assert isinstance(secured.news[0], NotRenewed)
    assert "is not the key of the certificate" in secured.news[0].reason
    load.wait_for_writes(20, BOUND)
    assert [client.connection for client in load.clients] == before
    secured.show(pair)
    within(BOUND, lambda: not any(client.connection in before for client in load.clients))
    load.wait_for_writes(20, BOUND)
    unnoticed(load.finish())
    assert isinstance(secured.news[-1], Renewed)
    assert papers.certificate_expiry is not None
    assert ended is not None
    assert papers.certificate_expiry - ended > 100 * 86400


def test_a_certificate_that_etcd_refuses_is_not_taken(secured: Secured, papers: Papers) -> None:
    """A pair that fits and that no member takes leaves the former in use, is told once, and a good one is taken."""
    load = load_on(secured, papers)
    before = load.writer.connection
    secured.show(STRANGER.issue("gw1"))
    within(BOUND, lambda: any(isinstance(one, NotRenewed) for one in secured.news))
    load.wait_for_writes(200, BOUND)
    assert load.writer.connection is before
    secured.show(secured.authority.issue("gw1"))
    within(BOUND, lambda: load.writer.connection is not before)
    load.wait_for_writes(20, BOUND)
    unnoticed(load.finish())


def test_the_authority_is_changed_unnoticed(secured: Secured, papers: Papers) -> None:
    """With both authorities in one file meanwhile, members and gateway get new certificates one after the other."""
    load = load_on(secured, papers)
    new = Authority("the next authority")

    def taken(change: Callable[[], None]) -> None:
        """Make a change of the gateway's files, and wait until it is in use and goes on."""
        former = load.writer.connection
        change()
        within(2 * BOUND, lambda: load.writer.holds(former) is False)
        load.wait_for_writes(20, BOUND)

    secured.trust_members(secured.authority, new)
    taken(lambda: secured.trust(secured.authority, new))
    secured.certify(new)
    taken(lambda: secured.show(new.issue("gw1")))
    taken(lambda: secured.trust(new))
    secured.restart_members()
    load.wait_for_writes(20, BOUND)
    verdict = load.finish()
    assert verdict.errors == ()
    assert verdict.counted == verdict.writes
    assert verdict.watch_is_right


def test_a_password_is_changed_unnoticed(secured: Secured, papers: Papers) -> None:
    """The file first, then etcd: tokens made with the old one end, and everybody logs in with the new one."""
    load = load_on(secured, papers)
    secured.write_password("another")
    load.wait_for_writes(20, BOUND)
    fresh = secured.client(papers)
    assert fresh.get(PREFIX + "load/count") is not None  # logs in with the old one, which the process remembers
    secured.root("user", "passwd", "rbdgate", "--interactive=false", said="another")
    load.wait_for_writes(50, BOUND)
    unnoticed(load.finish())


def test_a_password_changed_in_etcd_first(secured: Secured) -> None:
    """Until the file has it too, the error names the file; then the same client works."""
    client = secured.client()
    assert answers(client)
    secured.root("user", "passwd", "rbdgate", "--interactive=false", said="another")
    with pytest.raises(StoreRefused, match=r"etcd refuses user rbdgate with the password in .*/password"):
        client.transact([], [Put(PREFIX + "x", b"")])
    secured.write_password("another")
    within(BOUND, lambda: answers(client))


def test_users_are_asked_for_while_a_gateway_runs(open_to_all: Secured) -> None:
    """A gateway that has a user goes on when etcd begins to ask for one: write, lease and watch notice nothing."""
    load = load_on(open_to_all, open_to_all.papers())
    open_to_all.ask_for_users()
    load.wait_for_writes(50, BOUND)
    unnoticed(load.finish())


def test_members_that_restart_have_forgotten_every_token(secured: Secured, papers: Papers) -> None:
    """Each member is killed and started again, one after the other: everybody logs in anew, and nothing is lost."""
    load = load_on(secured, papers)
    secured.restart_members()
    load.wait_for_writes(50, BOUND)
    verdict = load.finish()
    assert verdict.errors == ()
    assert verdict.counted == verdict.writes
    assert verdict.watch_is_right
    assert max(verdict.longest_write, verdict.longest_keepalive, verdict.longest_watch) < BOUND
