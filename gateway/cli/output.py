"""What commands print: tables for people, JSON for scripts; errors and progress on standard error."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.cli.values import show_size
from gateway.errors import RbdgateError, StoreUnavailable
from gateway.model import USUAL_WEIGHT
from gateway.report import ImageStatus, NodeStatus


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned to their widest word, the last one as long as it is."""
    lines = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def image_table(images: Iterable[ImageStatus]) -> str:
    """One line an image."""
    rows = [
        (
            image.name,
            show_size(image.size),
            image.holder or "-",
            image.state.value,
            f"{sum(path.state == 'up' for path in image.paths)}/{len(image.paths)}",
            image.reason,
        )
        for image in images
    ]
    return table(("IMAGE", "SIZE", "HOLDER", "STATE", "PATHS", "REASON"), rows)


def node_table(nodes: Iterable[NodeStatus]) -> str:
    """One line a node; the weights only where one is not the usual."""
    found = tuple(nodes)
    weighed = any(node.weight != USUAL_WEIGHT for node in found)
    rows = [
        (
            node.name,
            node.state.value,
            *((str(node.weight),) if weighed else ()),
            "live" if node.live else "not live",
            ",".join(node.networks) or "-",
            str(len(node.images)),
            node.version or "-",
            "; ".join(word for word in (node.why, node.reason) if word),
        )
        for node in found
    ]
    weight = ("WEIGHT",) if weighed else ()
    return table(("NODE", "STATE", *weight, "LIVE", "NETWORKS UP", "IMAGES", "VERSION", "REASON"), rows)


def image_text(image: ImageStatus) -> str:
    """Everything about one image."""
    found = [
        ("name", image.name),
        ("iqn", image.iqn or "?"),
        ("serial", image.serial or "?"),
        ("size", show_size(image.size)),
        ("holder", image.holder or "-"),
        ("state", image.state.value + (f": {image.reason}" if image.reason else "")),
    ]
    if image.pin:
        found.append(("pinned to", image.pin))
    if image.keep_away:
        found.append(("kept away from", ", ".join(image.keep_away)))
    paths = table(
        ("TAG", "PORTAL", "NETWORK", "STATE", "REASON"),
        [(str(p.tag), portal(p.address, p.port), p.network, p.state, p.reason) for p in image.paths],
    )
    return facts(found) + "\n\n" + paths


def node_text(node: NodeStatus) -> str:
    """Everything about one node."""
    return facts(
        [
            ("name", node.name),
            ("state", node.state.value + (f": {node.why}" if node.why else "")),
            ("weight", str(node.weight)),
            ("live", "yes" if node.live else "no"),
            ("networks", ", ".join(node.networks) or "-"),
            ("images", ", ".join(node.images) or "-"),
            ("version", node.version or "-"),
            ("says", node.reason or "-"),
        ]
    )


def portal(address: str, port: int) -> str:
    """An address with its port."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def as_json(value: Any) -> str:  # noqa: ANN401 - whatever JSON can say
    """One JSON document, as every command with `--json` prints it."""
    return json.dumps(value, indent=2)


def report_error(error: RbdgateError, *, json_too: bool) -> None:
    """One line on standard error; with `--json` the same as an object on standard output, for scripts.

    What the store's own message cannot know is said here: what becomes of what is served, and where to look next.
    """
    message = " ".join(str(error).split())
    if isinstance(error, StoreUnavailable):
        message += "; what is served goes on while its tenure lasts; `rbdgate doctor --only etcd` tells why"
    print(f"rbdgate: {message}", file=sys.stderr)
    if json_too:
        print(as_json({"error": {"kind": type(error).__name__, "message": message}}))


class ProgressLine:
    """The one line on a terminal that says what is waited for; nothing where nobody looks."""

    def __init__(self) -> None:
        self._shown = ""
        self._on = sys.stderr.isatty()

    def show(self, reason: str) -> None:
        """Replace the line."""
        text = reason[: shutil.get_terminal_size().columns - 5] + " ..."
        if self._on and text != self._shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = text

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._shown = ""


def facts(found: Sequence[tuple[str, str]]) -> str:
    """One line a fact, its name first."""
    width = max(len(name) for name, _ in found)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in found)
