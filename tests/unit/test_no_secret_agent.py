"""No secret comes out of an agent or its guard: not in a line of the log, an event, a report, a page or a dump.

Secrets that stand out are given to a whole agent, and the store, Ceph, the kernel, the key and the code itself fail one
after the other, while it begins to serve and while it serves; then everything that it said is looked through. The
commands have a file of their own, `test_no_secret.py`.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from agent import inheritance, journal, main
from agent.chronicle import Chronicle
from agent.guard import Guard
from agent.monitoring.guard_file import GuardFigures
from agent.workers import Workers
from gateway.errors import FenceUnconfirmed, KernelRefused, RbdgateError, StorageUnavailable, Stuck
from gateway.lio import dump
from gateway.lio.lock import ConfigfsLock
from gateway.model import Amendment, AmendmentKind
from gateway.runtime import RuntimeDirectory
from gateway.store import papers
from gateway.store.security import Security
from gateway.timers import Timers
from tests.fakes.member import MemberStorage
from tests.fakes.scraped import Scraped
from tests.unit.hidden import (
    ANOTHER,
    AUTHORITY,
    FILES,
    PASSWORD,
    Served,
    expect_none_in,
    kernel_with_secrets,
    write_settings,
)

TURNS, MOST = 12, 100
"""How many of them see a fault at least, and at most: one act after the other fails."""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The log of this process, in a file; and systemd's ear, in the same."""
    file = tmp_path / "log"
    with file.open("a") as stream:
        journal.set_up("gw1", stream=stream, environment={})
        for room in ("agent.cycle", "agent.guard"):
            monkeypatch.setattr(f"{room}.notify", lambda **words: stream.write(f"{words}\n"))
        yield file
    structlog.reset_defaults()
    sys.excepthook = sys.__excepthook__


@dataclass
class Watched:
    """An agent that has secrets, with all that anybody can see of it but its log."""

    served: Served
    seen: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.pages = Scraped(self.served.member, self.served.path).pages

    def turns(self, told: Callable[[], bool]) -> None:
        """Some turns, whatever becomes of them, and until the fault is told."""
        for number in range(MOST):
            if number >= TURNS and told():
                return
            try:
                with suppress(RbdgateError):
                    self.served.member.turn()
            except ZeroDivisionError as error:
                self.seen.append(died(error))
            self.look()

    def look(self) -> None:
        """What it published, and each of its pages."""
        with suppress(RbdgateError):
            self.seen.append(repr(self.served.member.report))
        for path in ("/metrics", "/status", "/healthz", "/readyz"):
            page = self.pages.page(path)
            assert page.body
            self.seen.append(page.body.decode())

    def recorded(self) -> list[str]:
        """Everything in etcd, after all events were written there."""
        chronicle = Chronicle(self.served.cluster.store.events(), self.served.member.name)
        for event in self.served.member.events:
            chronicle.tell(event)
        while chronicle.backlog()[0]:
            assert chronicle.write()
        return [f"{item.key} {item.value!r}" for item in self.served.cluster.etcd.range("/").items]


def died(error: Exception) -> str:
    """Have the process and a thread of it die of this error, as far as they log it; returns all there is to show."""
    sys.excepthook(type(error), error, error.__traceback__)
    main._end_at_once(threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread())))
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def failing(*errors: type[Exception]) -> Callable[[str], None]:
    """Have each act fail once in each of these ways."""
    left: dict[str, list[type[Exception]]] = {}

    def before(act: str) -> None:
        mine = left.setdefault(act, list(errors))
        if mine:
            raise mine.pop(0)(f"{act}: no answer")

    return before


def bug(*_: object, **__: object) -> None:
    """What no one has thought of."""
    raise ZeroDivisionError("a bug")


def refusing_kernel(served: Served, _: pytest.MonkeyPatch) -> None:
    """Each act of the kernel."""
    served.member.kernel.before = failing(KernelRefused, Stuck, ZeroDivisionError)


def silent_etcd(served: Served, _: pytest.MonkeyPatch) -> None:
    """No member answers."""
    served.cluster.etcd.down = True


def silent_etcd_for_long(served: Served, _: pytest.MonkeyPatch) -> None:
    """Until the tenure is over."""
    served.cluster.etcd.down = True
    served.member.ahead = 60.0


def forgetful_etcd(served: Served, _: pytest.MonkeyPatch) -> None:
    """Answers to writes are lost, whether they were done or not; the node has joined by then."""
    served.member.turn()
    served.cluster.etcd.lose_next(*[True, False, False] * TURNS)


def failing_ceph(_: Served, patch: pytest.MonkeyPatch) -> None:
    """Each request to Ceph."""
    before = failing(StorageUnavailable, FenceUnconfirmed, ZeroDivisionError)
    for name in [name for name in dir(MemberStorage) if not name.startswith("_")]:
        patch.setattr(MemberStorage, name, _after(before, name, getattr(MemberStorage, name)))


def _after(before: Callable[[str], None], name: str, act: Callable[..., object]) -> Callable[..., object]:
    def asked(*arguments: object) -> object:
        before(name)
        return act(*arguments)

    return asked


def no_ceph(served: Served, _: pytest.MonkeyPatch) -> None:
    """There is no connection."""
    served.member.link.reason = "no answer"


def another_key(served: Served, _: pytest.MonkeyPatch) -> None:
    """This node has another key than the one that sealed."""
    served.key.write_text(ANOTHER.hex())


def damaged_key(served: Served, _: pytest.MonkeyPatch) -> None:
    """The file holds something else."""
    served.key.write_text("Unmistakable")


def everybodys_key(served: Served, _: pytest.MonkeyPatch) -> None:
    """Others may read it."""
    served.key.chmod(0o644)


def no_key(served: Served, _: pytest.MonkeyPatch) -> None:
    """There is none."""
    served.key.unlink()


def damaged_credentials(served: Served, _: pytest.MonkeyPatch) -> None:
    """What is sealed was moved to where it does not belong."""
    store = served.cluster.store
    (sealed,) = store.view().credentials.values()
    store.put_discovery(sealed)  # type: ignore[arg-type]


def bug_in(place: str) -> Callable[[Served, pytest.MonkeyPatch], None]:
    """A bug outside the kernel, in that function."""

    def break_it(_: Served, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(place, bug)

    break_it.__name__ = place
    return break_it


FAULTS = {
    refusing_kernel: "open_path: no answer",
    silent_etcd: "etcd not read",
    silent_etcd_for_long: "etcd not read",
    forgetful_etcd: "no answer",
    failing_ceph: "reservations: no answer",
    no_ceph: "no answer",
    another_key: "are sealed with key",
    damaged_key: "holds no key",
    everybodys_key: "could be read by others",
    no_key: "there is no key",
    damaged_credentials: "are damaged",
    **dict.fromkeys(
        map(
            bug_in,
            (
                *(
                    "agent.cycle.plan",
                    "agent.cycle.node_report",
                    "agent.opening.open_all",
                    "agent.narrator.Narrator.see",
                ),
                *("gateway.vault.Vault.open", "gateway.store.cluster.ClusterStore.publish_status"),
            ),
        ),
        "a bug",
    ),
}
"""Each with something that is said of it."""


def mend(served: Served, patch: pytest.MonkeyPatch) -> None:
    """Whatever the fault was, it is over."""
    patch.undo()
    served.cluster.etcd.down, served.member.ahead, served.member.link.reason = False, 0.0, ""
    served.cluster.etcd._lost.clear()
    served.member.kernel.before = lambda _: None
    served.write_key()
    for _ in range(3):  # the node says first that it has the key again
        served.member.turn()
    served.protect_discovery()


@pytest.mark.parametrize("serving", [False, True], ids=["while it begins to serve", "while it serves"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_no_failure_of_the_agent_shows_a_secret(
    tmp_path: Path, said: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], serving: bool
) -> None:
    """Log, systemd's ear, events, reports, pages, tracebacks and etcd stay clean, and afterwards it serves."""
    monkeypatch.setattr(os, "_exit", lambda _status: None)
    watched = Watched(served := Served(tmp_path))
    if serving:
        served.settle()
        served.rotate("own", "one")
        served.cluster.store.request_amendment(
            served.spec, Amendment(AmendmentKind.CLEAR, "operator", "it is built anew")
        )
    with pytest.MonkeyPatch.context() as patch:
        fault(served, patch)
        watched.turns(lambda: FAULTS[fault] in "".join([said.read_text(), *watched.seen]))
        mend(served, patch)
    served.settle()
    watched.look()
    recorded = watched.recorded()
    served.member.stop()
    lines = said.read_text()
    assert lines.count("event=") > 20
    assert FAULTS[fault] in "".join([lines, *watched.seen])
    expect_none_in(lines, *watched.seen, *recorded, *map(repr, served.member.events))
    expect_none_in(repr(served.member.kernel.state), repr(served.member.cycle._open(served.cluster.store.view())))
    assert "alice" not in lines


def test_no_failure_of_the_guard_shows_a_secret(tmp_path: Path, said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It withdraws exports that have secrets, each of its acts failing in each way there is."""
    monkeypatch.setattr(os, "_exit", lambda _status: None)
    kernel = Served(tmp_path).member.kernel
    kernel.state = kernel_with_secrets(tmp_path / "other")
    kernel.before = failing(KernelRefused, Stuck, ZeroDivisionError)
    kernel.portal_addresses = lambda: frozenset(kernel.state.addresses)  # type: ignore[attr-defined]
    kernel.lock = ConfigfsLock(tmp_path / "lock")  # type: ignore[attr-defined]
    done, figures, seen = threading.Semaphore(0), GuardFigures(lambda: 0.0, 0.0), list[str]()
    # By the turns' own time, in which what failed is tried again in the next one, however fast this machine is.
    now = 0.0
    workers = Workers(slots=1, retry_first=0.001, retry_last=0.001, on_done=done.release, clock=lambda: now)
    guard = Guard(
        boot_id="boot",
        timers=Timers(),
        runtime=RuntimeDirectory(tmp_path / "guard"),
        kernel=kernel,  # type: ignore[arg-type]
        workers=workers,
        figures=figures,
    )
    for turn in range(2 * TURNS):
        now = 100.0 * turn
        try:
            with suppress(RbdgateError):
                guard.look(now)
        except ZeroDivisionError as error:
            seen.append(died(error))
        while workers.busy():
            assert done.acquire(timeout=10)
        seen.append(figures.text(0.0, cut=True, mounted=False, requests=0))
    assert not kernel.state.targets
    lines = said.read_text()
    assert all(words in lines for words in ("tenure over", "the kernel refused", "bug in a step", "died of a bug"))
    expect_none_in(lines, *seen)


def test_a_certificate_that_is_not_taken_shows_no_key(
    tmp_path: Path, said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the node's new papers is logged without a word of them."""
    monkeypatch.setattr(papers, "LOOK", 0.0)
    write_settings(tmp_path, 1)
    security = Security(
        *(tmp_path / "ca", tmp_path / "tls.crt", tmp_path / "tls.key"), "rbdgate", tmp_path / "password"
    )
    held, seen = papers.Papers(security, tell=inheritance._log_renewal), list[str]()
    for content in (b"Unmistakable", AUTHORITY.issue("other").key + b"Unmistakable"):
        (tmp_path / "tls.key").write_bytes(content)
        seen.append(repr((held.identity, held.passwords.candidates())))
    AUTHORITY.issue("gw9").write(tmp_path / "tls.crt", tmp_path / "tls.key")
    seen.append(repr(held.identity))
    lines = said.read_text()
    assert lines.count("etcd certificate not renewed") == 2
    assert lines.count("etcd certificate renewed") == 1
    expect_none_in(lines, *seen)
    assert held.passwords.candidates()[0].plain == PASSWORD


class Rtslib:
    """What rtslib has to say of LIO, secrets and all."""

    targets = property(lambda self: [self])

    def __init__(self, _fabric: str = "") -> None:
        self.secrets = {
            "chap_userid": "Unmistakable",
            "chap_password": FILES["one"],
            "chap_mutual_userid": "Unmistakable",
            "chap_mutual_password": FILES["own"],
        }

    @classmethod
    def all(cls) -> list[Rtslib]:
        """Every storage object."""
        return [cls()]

    def dump(self) -> dict[str, object]:
        """As the real ones: in a TPG, an ACL of it and the fabric."""
        tpg = {"tag": 1, "node_acls": [{"node_wwn": "iqn.a:b", **self.secrets}], **self.secrets}
        return {"wwn": "iqn.c:d", "discovery_password": FILES["all"], "tpgs": [tpg]}


def test_a_dump_has_no_secret(said: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for one gets all that LIO has but that, and hears of a failure without it."""
    monkeypatch.setattr(journal, "set_up", lambda: None)
    monkeypatch.setattr(dump, "StorageObject", Rtslib)
    monkeypatch.setattr(dump, "FabricModule", Rtslib)
    assert main.main(["dump"]) == 0
    monkeypatch.setattr(Rtslib, "all", bug)
    with pytest.raises(ZeroDivisionError) as bug_in_rtslib:
        main.main(["dump"])
    monkeypatch.setattr(Rtslib, "all", lambda: os.listdir("/none"))
    assert main.main(["dump"]) == 1
    out, error = capsys.readouterr()
    assert "iqn.c:d" in out
    assert "rtslib cannot read LIO's state" in said.read_text()
    expect_none_in(out, error, said.read_text(), "".join(traceback.format_exception(bug_in_rtslib.value)))
