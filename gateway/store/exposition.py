"""What one etcd member tells over plain HTTP: its metrics, and with them the date of its clock.

Only the doctor asks. Format: Prometheus' text exposition, version 0.0.4; the names are etcd's (etcd.io, "Metrics"). A
member may be configured to keep them elsewhere (`--listen-metrics-urls`), so that they are missing says nothing bad.
"""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gateway.errors import StoreUnavailable

_QUOTA = "etcd_server_quota_backend_bytes"
_FSYNC = "etcd_disk_wal_fsync_duration_seconds"
_BYTES = 4 << 20
_ENOUGH = 1000
"""Syncs from which a hundredth of them says something about a disk, and not about how the member started."""


@dataclass(frozen=True)
class Exposition:
    """One answer: the member's `date` (epoch seconds, whole), when it was `heard_at` here and how long it `took`.

    `quota` is the database's bound in bytes, `fsync_p99` the time in seconds that 99 % of its log's syncs stayed
    within since it started; each None if it does not tell.
    """

    date: float
    heard_at: float
    took: float
    quota: int | None
    fsync_p99: float | None


def expose(endpoint: str, timeout: float) -> Exposition:
    """Ask the member behind `HOST:PORT`, each step within `timeout` seconds; StoreUnavailable without an answer."""
    host, _, port = endpoint.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
    began = time.monotonic()
    try:
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
    return Exposition(date, heard_at, took, _quota(text), fsync_p99(text))


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
