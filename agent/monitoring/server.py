"""The agent's HTTP port: a few connections at a time, each for one small request and for a few seconds at most.

It serves no image, and nothing waits for it: a port that is taken is tried again, a client that says nothing or reads
nothing is dropped, and one too many is turned away.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import structlog

from agent.monitoring.pages import Page
from gateway.settings import HttpSettings

log = structlog.get_logger("http")

MOST = 8
"""How many connections may be open at a time."""

PATIENCE = 5.0
"""For how long, in seconds, a connection may be open once others want its place, or be silent."""

LARGEST = 8192
"""The most bytes a request may have."""

RETRY = 5.0
"""Seconds until a port that could not be had is tried again."""

Requested = socket.socket | tuple[bytes, socket.socket]

Answerer = Callable[[str, str], Page]
"""The page of a path, for a client that accepts these kinds."""


class Server(threading.Thread):
    """Listens where the settings say, for ever; `trouble` says why it cannot, for people."""

    def __init__(
        self, settings: HttpSettings, answer: Answerer, clock: Callable[[], float], refused: Callable[[], None]
    ) -> None:
        super().__init__(name="http", daemon=True)
        self._settings, self._answer, self._clock, self._refused = settings, answer, clock, refused
        self._ended = threading.Event()
        self._port: _Port | None = None
        self.trouble = ""

    @property
    def port(self) -> int | None:
        """The port that is listened at; None if there is none now."""
        return self._port.server_port if self._port is not None else None

    def run(self) -> None:
        """Have the port, and answer."""
        while not self._ended.is_set():
            try:
                self._port = _Port(self._settings, self._answer, self._clock, self._refused)
            except OSError as error:
                trouble = f"no figures and no health: cannot listen at {self._settings}: {error.strerror or error}"
                if trouble != self.trouble:
                    log.warning("not listening; trying again", at=str(self._settings), error=str(error))
                self.trouble = trouble
                self._ended.wait(RETRY)
                continue
            self.trouble = ""
            log.info("listening", at=str(self._settings))
            self._port.serve_forever()
            self._port.server_close()

    def stop(self) -> None:
        """Listen no more."""
        self._ended.set()
        if self._port is not None:
            self._port.shutdown()
        self.join(PATIENCE)


class _Port(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(
        self, settings: HttpSettings, answer: Answerer, clock: Callable[[], float], refused: Callable[[], None]
    ) -> None:
        self.address_family = socket.AF_INET6 if settings.address.version == 6 else socket.AF_INET
        self.answer, self._clock, self._refused = answer, clock, refused
        self._lock = threading.Lock()
        self._open: dict[Requested, float] = {}
        super().__init__((str(settings.address), settings.port), _Handler)

    def server_bind(self) -> None:
        """Bind, an IPv6 wildcard for IPv4 as well; the base would ask DNS for this machine's name and could wait."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Requested, client_address: object) -> None:
        """Give it a thread, or turn it away; those that had their time make room."""
        now = self._clock()
        with self._lock:
            full = len(self._open) >= MOST
            overdue = [each for each, since in self._open.items() if now - since >= PATIENCE] if full else []
            for each in overdue:
                del self._open[each]
                with suppress(OSError):
                    _socket(each).shutdown(socket.SHUT_RDWR)  # its thread finds that out and ends
            admitted = len(self._open) < MOST
            if admitted:
                self._open[request] = now
        if admitted:
            super().process_request(request, client_address)
        else:
            self._refused()
            self.shutdown_request(request)

    def close_request(self, request: Requested) -> None:
        """Closed, and its place is free."""
        with self._lock:
            self._open.pop(request, None)
        super().close_request(request)

    def handle_error(self, _request: Requested, client_address: object) -> None:
        """A client that went away is its own affair; anything else is a bug that costs one answer."""
        log.warning("a request failed", client=str(client_address), exc_info=True)


def _socket(request: Requested) -> socket.socket:
    """The connection; a server of datagrams would have a pair."""
    return request if isinstance(request, socket.socket) else request[1]


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server: _Port

    def setup(self) -> None:
        """Read one request; one that is longer than it may be, or has a body, counts as none."""
        super().setup()
        self.rfile.close()
        self.rfile = BytesIO(self._request_head())

    def _request_head(self) -> bytes:
        head = b""
        with suppress(OSError):
            while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < LARGEST:
                more = self.connection.recv(LARGEST - len(head))
                if not more:
                    return b""
                head += more
        return head if head.endswith((b"\r\n\r\n", b"\n\n")) else b""

    def do_GET(self) -> None:
        """Answer."""
        page = self.server.answer(self.path, self.headers.get("Accept", ""))
        with suppress(OSError):  # who does not wait for the answer does not get it
            self.send_response_only(page.status)
            self.send_header("Content-Type", page.kind)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - the base looks for this name

    def send_error(self, code: int, message: str | None = None, _explain: str | None = None) -> None:
        """A request that cannot be understood, in one line."""
        with suppress(OSError):
            self.send_response_only(code, message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def version_string(self) -> str:
        """No need to tell."""
        return "rbdgate"

    def log_message(self, _form: str, *_words: object) -> None:
        """Scrapes are not worth a line each."""
