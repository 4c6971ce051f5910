"""What one etcd member tells over HTTP(S): its metrics, and with them the date of its clock; and its certificate.

Only the doctor asks. Format: Prometheus' text exposition, version 0.0.4; the names are etcd's (etcd.io, "Metrics"). A
member may be configured to keep them elsewhere (`--listen-metrics-urls`), so that they are missing says nothing bad.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gateway.errors import StoreUnavailable
from gateway.store.security import PLAIN, Security

_QUOTA = "etcd_server_quota_backend_bytes"
_FSYNC = "etcd_disk_wal_fsync_duration_seconds"
_BYTES = 4 << 20
_ENOUGH = 1000
"""Syncs from which a hundredth of them says something about a disk, and not about how the member started."""


@dataclass(frozen=True)
class Exposition:
    """One answer: the member's `date` (epoch seconds, whole), when it was `heard_at` here and how long it `took`.

    `quota` is the database's bound in bytes, `fsync_p99` the time in seconds that 99 % of its log's syncs stayed
    within since it started; each None if it does not tell. `certificate_ends` is its certificate's, in epoch seconds;
    None in plain text.
    """

    date: float
    heard_at: float
    took: float
    quota: int | None
    fsync_p99: float | None
    certificate_ends: float | None = None


def expose(endpoint: str, timeout: float, security: Security = PLAIN) -> Exposition:
    """Ask the member behind `HOST:PORT`, each step within `timeout` seconds; StoreUnavailable without an answer."""
    connection = _connection(endpoint, timeout, security)
    try:
        connection.connect()
        ends = _certificate_ends(connection.sock)
        began = time.monotonic()
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        took, heard_at = time.monotonic() - began, time.time()
        text = answer.read(_BYTES).decode(errors="replace") if answer.status == http.client.OK else ""
        date = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (OSError, ValueError, TypeError, http.client.HTTPException) as error:
        raise StoreUnavailable(
            f"etcd member {endpoint}: no answer over HTTP ({error or type(error).__name__})"
        ) from None
    finally:
        connection.close()
    return Exposition(date, heard_at, took, _quota(text), fsync_p99(text), ends)


def _connection(endpoint: str, timeout: float, security: Security) -> http.client.HTTPConnection:
    host, _, port = endpoint.rpartition(":")
    if security.ca_file is None:
        return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no stricter than gRPC, which the agent asks with
        context.load_verify_locations(security.ca_file)
        if security.certificate_file is not None:
            context.load_cert_chain(security.certificate_file, security.key_file)
    except OSError as error:
        raise StoreUnavailable(f"etcd member {endpoint}: not asked, this node's files do not load ({error})") from None
    return http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=timeout, context=context)


def _certificate_ends(connected: socket.socket) -> float | None:
    shown = connected.getpeercert() if isinstance(connected, ssl.SSLSocket) else None
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"]))) if shown else None


def _quota(text: str) -> int | None:
    found = re.search(rf"^{_QUOTA} (\S+)$", text, re.MULTILINE)
    return round(float(found[1])) if found else None


def fsync_p99(text: str) -> float | None:
    """The upper end, in seconds, of the histogram's bucket with the 99th percentile; None if it has too few to tell."""
    buckets = re.findall(rf'^{_FSYNC}_bucket{{le="([^"]+)"}} (\d+)$', text, re.MULTILINE)
    counts = sorted((float(end), int(count)) for end, count in buckets)
    if not counts or counts[-1][1] < _ENOUGH:
        return None
    return next(end for end, count in counts if count >= 0.99 * counts[-1][1])
