"""An agent's `/metrics` as the reference describes it, with made-up figures, for rules and dashboards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product

from tests.metrics import Figure, figures

PORT = 9927

LABELS = {
    "direction": ("read", "write"),
    "endpoint": ("127.0.0.1:2379", "127.0.0.2:2379", "127.0.0.3:2379"),
    "image": ("rbd/d1",),
    "iqn": ("iqn.2026-01.test:d1",),
    "kind": ("move",),
    "network": ("storage-1",),
    "node": ("gw1", "gw2"),
    "operation": ("range", "probe"),
    "outcome": ("proven", "done", "confirmed"),
    "part": ("lease", "etcd"),
    "path": ("1", "2"),
    "phase": ("claim", "fence"),
    "reason": ("failure",),
    "step": ("claim",),
    "version": ("1",),
}
"""What each label is, where it may be anything that the reference allows; any other label is `some`."""

ONLY: dict[str, dict[str, tuple[str, ...]]] = {
    "rbdgate_cluster_image_holder": {"node": ("gw1",)},
    "rbdgate_cluster_image_state": {"state": ("serving",)},
    "rbdgate_cluster_images": {"state": ("serving", "failed")},
    "rbdgate_cluster_node_state": {"state": ("active",)},
}

BUCKETS = ("0.1", "1.0", "+Inf")


@dataclass
class Agent:
    """One made-up agent: gauges are 1 unless `gauges` says otherwise, counters grow with every scrape."""

    node: str
    gauges: dict[str, float] = field(default_factory=dict)
    scrapes: int = 0

    def text(self) -> str:
        """What the next scrape is answered, in Prometheus' text format (version 0.0.4)."""
        self.scrapes += 1
        lines = [line for figure in figures() for line in self._lines(figure)]
        return "\n".join([*lines, *self._process()]) + "\n"

    def _lines(self, figure: Figure) -> Iterator[str]:
        yield f"# HELP {figure.name} Made up."
        yield f"# TYPE {figure.name} {figure.type}"
        for labels in self._label_sets(figure):
            if figure.type == "histogram":
                yield from self._histogram(figure.name, labels)
            else:
                value = self.scrapes if figure.type == "counter" else self.gauges.get(figure.name, 1)
                yield f"{figure.name}{{{labels}}} {value}"

    def _label_sets(self, figure: Figure) -> Iterator[str]:
        values = LABELS | ONLY.get(figure.name, {})
        if figure.name == "rbdgate_agent_info":
            values = values | {"node": (self.node,)}
        for chosen in product(*(values.get(label, ("some",)) for label in figure.labels)):
            yield ",".join(f'{label}="{value}"' for label, value in zip(figure.labels, chosen, strict=True))

    def _histogram(self, name: str, labels: str) -> Iterator[str]:
        for le in BUCKETS:
            bucket = ",".join(filter(None, (labels, f'le="{le}"')))
            yield f"{name}_bucket{{{bucket}}} {self.scrapes}"
        yield f"{name}_count{{{labels}}} {self.scrapes}"
        yield f"{name}_sum{{{labels}}} {self.scrapes / 20}"

    def _process(self) -> Iterator[str]:
        yield f"process_cpu_seconds_total {self.scrapes / 100}"
        yield "process_resident_memory_bytes 5e7"
        yield "process_open_fds 20"


@contextmanager
def serving(agent: Agent, address: str) -> Iterator[None]:
    """Answer scrapes of the agent on that address until left."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = agent.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape is no news."""

    server = ThreadingHTTPServer((address, PORT), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
