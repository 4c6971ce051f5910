"""One image: who serves it, on which paths, how fast, and what went wrong with it."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from agent.monitoring.building.panels import HALF, Query, Row, choice, curve, number, or_none, timeline, word
from agent.monitoring.building.panels import board as made

_WORDS = "One image, whichever gateway serves it."
_OF = '{job="$job", image="$image"}'


def board() -> model.Dashboard:
    """The dashboard `rbdgate-image`."""
    image = choice("image", "Image", 'label_values(rbdgate_cluster_image_info{job="$job"}, image)')
    return made("rbdgate-image", "rbdgate: one image", _WORDS, [image], (_now(), _serving(), _load(), _trouble()))


def _now() -> Row:
    return Row(
        "Now",
        (
            word("State", Query(f"max by (state) (rbdgate_cluster_image_state{_OF})", "{{state}}")),
            word("Holder", Query(or_none(f"max by (node) (rbdgate_cluster_image_holder{_OF})", "node"), "{{node}}")),
            number("Paths up", "short", Query(f"sum(max by (path) (rbdgate_cluster_path_up{_OF}))")),
            number("Sessions", "short", Query(f"sum(rbdgate_image_sessions{_OF})")),
            number("Size", "bytes", Query(f"max(rbdgate_cluster_image_size_bytes{_OF})")),
            word("Target", Query(f"max by (iqn) (rbdgate_cluster_image_info{_OF})", "{{iqn}}")),
        ),
    )


def _serving() -> Row:
    holder = Query(f"max by (node) (rbdgate_cluster_image_holder{_OF})", "{{node}}")
    paths = Query(f"max by (path, network) (rbdgate_cluster_path_up{_OF})", "{{path}} in {{network}}")
    kernels = Query(f"sum by (path) (rbdgate_path_serving{_OF})", "path {{path}}")
    reasons = or_none(f"max by (path, reason) (rbdgate_cluster_path_down_reason{_OF})", "reason")
    return Row(
        "Serving",
        (
            timeline("Holder", holder),
            timeline("Paths up", paths),
            curve("Kernels that serve each path", "short", kernels, span=HALF, words="More than 1 is two holders."),
            curve("Why paths are down", "short", Query(reasons, "{{path}} {{reason}}"), span=HALF),
        ),
    )


def _load() -> Row:
    def rate(figure: str) -> str:
        return f"sum by (direction) (rate({figure}{_OF}[$__rate_interval]))"

    operations = rate("rbdgate_image_operations_total")
    latency = f"{rate('rbdgate_image_operation_time_seconds_total')} / {operations}"
    return Row(
        "Load",
        (
            curve("Throughput", "Bps", Query(rate("rbdgate_image_bytes_total"), "{{direction}}")),
            curve("Operations", "ops", Query(operations, "{{direction}}")),
            curve("Time of an operation", "s", Query(latency, "{{direction}}"), words="Mean; absent without any."),
            curve("Under way", "short", Query(f"sum(rbdgate_image_operations_in_progress{_OF})", "requests")),
            curve(
                "Busy",
                "percentunit",
                Query(f"sum(rate(rbdgate_image_busy_seconds_total{_OF}[$__rate_interval]))", "busy"),
            ),
            curve("Sessions", "short", Query(f"sum(rbdgate_image_sessions{_OF})", "sessions")),
        ),
    )


def _trouble() -> Row:
    failures = f"sum by (reason) (increase(rbdgate_image_failures_total{_OF}[$__rate_interval]))"
    drift = f"sum by (kind) (increase(rbdgate_drift_found_total{_OF}[$__rate_interval]))"
    return Row(
        "Trouble",
        (
            curve("Steps that failed", "short", Query(or_none(failures, "reason"), "{{reason}}"), span=HALF),
            curve("Changed by somebody else", "short", Query(or_none(drift, "kind"), "{{kind}}"), span=HALF),
        ),
    )
