"""What each path of the agent's HTTP port answers. No socket here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agent.monitoring.readiness import Live
from agent.monitoring.sights import STALE

_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"


@dataclass(frozen=True)
class Page:
    """An answer."""

    status: HTTPStatus
    kind: str
    body: bytes


class Pages:
    """The pages of one agent, each made anew when it is asked for."""

    def __init__(self, registry: CollectorRegistry, live: Live) -> None:
        self._registry, self._live = registry, live

    def page(self, path: str, accept: str = "") -> Page:
        """The answer for a path; `accept` is the request's header of that name."""
        match path.partition("?")[0]:
            case "/metrics":
                encode, kind = choose_encoder(accept)
                return Page(HTTPStatus.OK, kind, encode(self._registry))
            case "/healthz":
                hung = self._live.hung()
                return _text(HTTPStatus.SERVICE_UNAVAILABLE if hung else HTTPStatus.OK, hung or "the cycle turns")
            case "/readyz":
                return self._ready()
            case "/status":
                return self._status()
            case "/":
                return _text(HTTPStatus.OK, "rbdgate-agent: /metrics /healthz /readyz /status")
            case _:
                return _text(HTTPStatus.NOT_FOUND, "there is /metrics, /healthz, /readyz and /status")

    def _ready(self) -> Page:
        parts = self._live.missing()
        wrong = {part: reason for part, reason in parts.items() if reason}
        status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
        return _json(status, {"ready": not wrong, "wrong": wrong, "parts": {p: not r for p, r in parts.items()}})

    def _status(self) -> Page:
        cluster, unread = self._live.board.cluster, self._live.unread(STALE)
        if cluster is None or unread:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": {"kind": "Unavailable", "message": unread}})
        return _json(HTTPStatus.OK, cluster.watchful.as_dict())


def _text(status: HTTPStatus, words: str) -> Page:
    return Page(status, _TEXT, f"{words}\n".encode())


def _json(status: HTTPStatus, document: dict[str, Any]) -> Page:
    return Page(status, _JSON, json.dumps(document, indent=2).encode() + b"\n")
