"""The agent's HTTP port: what it answers, and that no client and no other program on the port gets in anybody's way."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from agent.monitoring import server as serving
from agent.monitoring.pages import Page
from agent.monitoring.readiness import READ, TURNS
from agent.monitoring.server import LARGEST, MOST, PATIENCE, Server
from agent.monitoring.sights import STALE
from gateway.cli import main as program
from gateway.cli.session import Session
from gateway.errors import KernelRefused
from gateway.model import Label
from gateway.observed import Kernel
from gateway.settings import HttpSettings
from gateway.timers import Timers
from tests.fakes.member import Cluster, Member
from tests.fakes.operation import operation
from tests.fakes.scraped import Scraped
from tests.unit.test_narrator import set_link
from tests.unit.test_plan import NETWORKS, spec_of

HERE = HttpSettings(ipaddress.IPv4Address("127.0.0.1"), 0)
BOUND = 10.0


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Scraped]:
    """The pages of a node that serves an image."""
    member = Member(Cluster(NETWORKS, (spec_of(1),)), "gw1", tmp_path)
    member.start()
    member.settle()
    yield Scraped(member, tmp_path)
    member.stop()


@contextmanager
def listening(
    answer: Callable[[str, str], Page], clock: Callable[[], float] = time.monotonic, settings: HttpSettings = HERE
) -> Iterator[tuple[int, list[int]]]:
    """A server on a free port, and a list that grows with each connection that was turned away."""
    refused: list[int] = []
    server = Server(settings, answer, clock, lambda: refused.append(1))
    server.start()
    try:
        yield _until(lambda: server.port), refused
    finally:
        server.stop()
        assert not server.is_alive()


def _until(found: Callable[[], int | None]) -> int:
    deadline = time.monotonic() + BOUND
    pause = threading.Event()
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        pause.wait(0.005)
    raise AssertionError("not in time")


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    """Status, content type and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.getheader("Content-Type", "") or "", reply.read()
    finally:
        connection.close()


def test_every_page_is_answered(scraped: Scraped) -> None:
    """A gateway that serves is healthy and ready, and tells figures and status."""
    with listening(scraped.pages.page) as (port, _):
        status, kind, body = ask(port, "/metrics")
        assert (status, kind.startswith("text/plain; version=")) == (200, True)
        assert b"rbdgate_agent_info" in body
        assert ask(port, "/healthz")[0] == 200
        status, kind, body = ask(port, "/readyz")
        assert (status, kind, json.loads(body)["ready"], json.loads(body)["wrong"]) == (
            200,
            "application/json",
            True,
            {},
        )
        status, _, body = ask(port, "/status")
        assert status == 200
        assert [image["state"] for image in json.loads(body)["images"]] == ["serving"]
        assert json.loads(body)["troubles"] == []
        assert ask(port, "/other")[0] == 404
        assert ask(port, "/healthz", "HEAD")[2] == b""
        assert ask(port, "/healthz", "POST")[0] == 501


def test_readiness_names_what_is_missing(scraped: Scraped) -> None:
    """Each part says by itself why it is not ready."""
    member = scraped.member
    member.guard_sign, member.link.reason = None, "no route"
    member.ahead += READ
    wrong = json.loads(scraped.pages.page("/readyz").body)["wrong"]
    assert scraped.pages.page("/readyz").status is HTTPStatus.SERVICE_UNAVAILABLE
    assert set(wrong) == {"cycle", "lease", "etcd", "storage", "guard"}
    assert "guard" in wrong["guard"]


def test_a_gateway_whose_turns_all_fail_is_not_ready(scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all it needs and could take nothing over; one turn that fails says nothing yet."""
    member = scraped.member

    def refuse(_: object) -> Kernel:
        raise KernelRefused("configfs: EIO")

    with monkeypatch.context() as patch:
        patch.setattr(member.kernel, "observe", refuse)
        for ahead, reason in ((0, ""), (READ, "every turn has failed for 15 s; the agent's journal says why")):
            member.ahead = ahead
            with suppress(KernelRefused):
                member.turn()
            document = json.loads(scraped.pages.page("/readyz").body)
            assert (document["parts"]["cycle"], document["wrong"].get("cycle", "")) == (not reason, reason)
            assert scraped.pages.page("/healthz").status is HTTPStatus.OK
    member.ahead = 0
    member.turn()
    assert scraped.pages.page("/readyz").status is HTTPStatus.OK


def test_a_cycle_that_does_not_turn_is_not_healthy(scraped: Scraped) -> None:
    """Health is that turns end, whatever came of them."""
    assert scraped.pages.page("/healthz").status is HTTPStatus.OK
    scraped.member.ahead += TURNS
    assert scraped.pages.page("/healthz").status is HTTPStatus.SERVICE_UNAVAILABLE
    scraped.member.cluster.etcd.down = True
    scraped.member.turn()
    assert scraped.pages.page("/healthz").status is HTTPStatus.OK


def test_status_before_anything_was_read_is_unknown(scraped: Scraped) -> None:
    """An agent that just started says so; it does not say that there is no image."""
    scraped.live.board.cluster = None
    page = scraped.pages.page("/status")
    assert (page.status, "images" in json.loads(page.body)) == (HTTPStatus.SERVICE_UNAVAILABLE, False)
    assert json.loads(page.body)["error"]["message"] == "etcd was not read yet"


def test_status_of_long_ago_is_unknown(scraped: Scraped) -> None:
    """With etcd away for long the last state is not told as the present one; when it was read is."""
    scraped.member.cluster.etcd.down = True
    scraped.member.ahead += STALE - 1
    assert scraped.pages.page("/status").status is HTTPStatus.OK
    scraped.member.ahead += 86400
    scraped.member.turn()
    page = scraped.pages.page("/status")
    document = json.loads(page.body)
    assert (page.status, list(document)) == (HTTPStatus.SERVICE_UNAVAILABLE, ["error"])
    assert re.fullmatch(r"etcd was last read 864\d\d s ago", document["error"]["message"])


def test_status_is_what_the_command_prints(scraped: Scraped, capsys: pytest.CaptureFixture[str]) -> None:
    """With a network down, to the letter, so that what reads the one can read the other."""
    member = scraped.member
    set_link(member, 0, up=False)
    member.settle()
    member.ahead += Timers().link_down
    member.settle()
    made, _ = operation(), capsys.readouterr()
    session = Session(member.cluster.store, made.ceph, made.patience(), Label("gw1"), print)
    assert program.run(["status", "--json"], lambda _arguments, _progress: nullcontext(session)) == 0
    printed = capsys.readouterr().out
    assert {trouble["about"] for trouble in json.loads(printed)["troubles"]} == {"gw1", str(spec_of(1).name)}
    assert scraped.pages.page("/status").body.decode() == printed


def test_a_cycle_that_hangs_is_not_blamed_on_etcd(scraped: Scraped) -> None:
    """Nobody asked etcd meanwhile, so whether it answers is not known."""
    scraped.member.ahead += STALE
    for page, reason in (("/readyz", ("wrong", "etcd")), ("/status", ("error", "message"))):
        document = json.loads(scraped.pages.page(page).body)
        assert "the cycle has not turned for 30 s" in document[reason[0]][reason[1]]


def quick(_path: str, _accept: str) -> Page:
    """A page at once."""
    return Page(HTTPStatus.OK, "text/plain", b"here\n")


def test_hung_clients_keep_nobody_away() -> None:
    """As many as may be open say nothing: one more is turned away, and when their time is over it is let in."""
    now = [0.0]
    with listening(quick, lambda: now[0]) as (port, refused), ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), BOUND)) for _ in range(MOST)]
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(port, "/metrics")
        assert refused == [1]
        now[0] += PATIENCE
        assert ask(port, "/metrics")[2] == b"here\n"
        assert all(each.recv(10) == b"" for each in silent)


def test_a_silent_client_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a few seconds to say what it wants."""
    monkeypatch.setattr(serving._Handler, "timeout", 0.05)
    with listening(quick) as (port, _), socket.create_connection(("127.0.0.1", port), BOUND) as silent:
        silent.sendall(b"GET / HT")
        assert silent.recv(10) == b""


@pytest.mark.parametrize(
    "request_text", [b"A" * LARGEST, b"GET /" + b"a" * LARGEST, b"garbage\r\n\r\n", b"\r\n\r\n", b"\0" * 100]
)
def test_what_is_no_small_request_is_not_answered_with_a_page(request_text: bytes) -> None:
    """It costs one connection, and the next client is answered."""
    with listening(quick) as (port, _):
        with socket.create_connection(("127.0.0.1", port), BOUND) as client:
            said = b""
            with suppress(OSError):  # it may be closed before it has said all
                client.sendall(request_text)
                client.shutdown(socket.SHUT_WR)
                said = client.recv(10000)
            assert b"here" not in said
        assert ask(port, "/metrics")[2] == b"here\n"


def test_a_page_that_fails_costs_one_answer() -> None:
    """A bug in one page ends neither the server nor another request."""
    calls: list[str] = []

    def broken(path: str, accept: str) -> Page:
        calls.append(path)
        if len(calls) == 1:
            raise ZeroDivisionError
        return quick(path, accept)

    with listening(broken) as (port, _):
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(port, "/metrics")
        assert ask(port, "/metrics")[2] == b"here\n"


def test_a_port_that_is_taken_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trouble is told meanwhile, and gone when the port can be had."""
    monkeypatch.setattr(serving, "RETRY", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = Server(replace(HERE, port=port), quick, time.monotonic, lambda: None)
        server.start()
        _until(lambda: len(server.trouble))
        assert f"cannot listen at 127.0.0.1:{port}" in server.trouble
    try:
        assert _until(lambda: server.port) == port
        assert server.trouble == ""
    finally:
        server.stop()


def test_ipv6_and_ipv4_at_once() -> None:
    """The IPv6 wildcard answers both."""
    with listening(quick, settings=HttpSettings(ipaddress.IPv6Address("::"), 0)) as (port, _):
        assert ask(port, "/")[2] == b"here\n"
        connection = http.client.HTTPConnection("::1", port, timeout=BOUND)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"here\n"
        connection.close()
