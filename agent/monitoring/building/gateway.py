"""One gateway: its lease, its turns, its guard, what it waits for, and what its images cost it."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from agent.monitoring.building.panels import HALF, Query, Row, choice, curve, number, or_none, quantile, timeline
from agent.monitoring.building.panels import board as made

_WORDS = "One gateway, by its own word."
_OF = '{job="$job", instance="$instance"}'


def board() -> model.Dashboard:
    """The dashboard `rbdgate-gateway`."""
    node = choice("node", "Gateway", 'label_values(rbdgate_agent_info{job="$job"}, node)')
    instance = choice("instance", "", 'label_values(rbdgate_agent_info{job="$job", node="$node"}, instance)')
    variables = [node, instance.hide(model.VariableHide.HIDE_VARIABLE)]
    rows = (_now(), _lease(), _turns(), _needs(), _images(), _process())
    return made("rbdgate-gateway", "rbdgate: one gateway", _WORDS, variables, rows)


def _now() -> Row:
    turn = f"time() - rbdgate_cycle_last_success_timestamp_seconds{_OF}"
    return Row(
        "Now",
        (
            number("Images held", "short", Query(f"rbdgate_claims{_OF}")),
            number("Tenure left", "s", Query(f"rbdgate_tenure_left_seconds{_OF}")),
            number("Last whole turn", "s", Query(turn)),
            number("Images at work", "short", Query(f"rbdgate_images_at_work{_OF}")),
            number("Images failing", "short", Query(f"rbdgate_images_failing{_OF}")),
            number("Ceph has been silent", "s", Query(f"rbdgate_rados_silence_seconds{_OF}")),
            timeline("Ready", Query(f"rbdgate_node_ready{_OF}", "{{part}}")),
            timeline("Networks up", Query(f"rbdgate_network_up{_OF}", "{{network}}")),
        ),
    )


def _lease() -> Row:
    renewals = f"sum by (outcome) (rate(rbdgate_lease_renewals_total{_OF}[$__rate_interval]))"
    return Row(
        "Lease and guard",
        (
            curve(
                "Lease and tenure",
                "s",
                Query(f"rbdgate_lease_age_seconds{_OF}", "age of the lease"),
                Query(f"rbdgate_tenure_left_seconds{_OF}", "tenure left"),
                Query(f"rbdgate_lease_ttl_seconds{_OF}", "TTL"),
            ),
            curve("Renewals", "ops", Query(renewals, "{{outcome}}")),
            curve(
                "Time of a renewal", "s", Query(quantile(0.99, f"rbdgate_lease_renewal_duration_seconds{_OF}"), "99 %")
            ),
            curve(
                "Guard",
                "short",
                Query(f"rbdgate_guard_up{_OF}", "up"),
                Query(f"rbdgate_guard_cut{_OF}", "keeps the portals cut"),
                Query(f"rbdgate_guard_trap_mounted{_OF}", "catches reservations"),
            ),
            curve("Age of the guard's sign of life", "s", Query(f"rbdgate_guard_sign_age_seconds{_OF}", "age")),
            curve(
                "Cuts by the guard",
                "short",
                Query(f"increase(rbdgate_guard_cuts_total{_OF}[$__rate_interval])", "cuts"),
            ),
        ),
    )


def _turns() -> Row:
    def summed(figure: str, by: str) -> str:
        return f"sum by ({by}) (rate({figure}{_OF}[$__rate_interval]))"

    failed = or_none(summed("rbdgate_plan_step_failures_total", "step, reason"), "step")
    turn = f"rbdgate_cycle_duration_seconds{_OF}"
    return Row(
        "Turns and steps",
        (
            curve("Turns", "ops", Query(summed("rbdgate_cycle_turns_total", "outcome"), "{{outcome}}")),
            curve("Time of a turn", "s", Query(quantile(0.5, turn), "median"), Query(quantile(0.99, turn), "99 %")),
            curve("Why it takes no image", "short", Query(f"rbdgate_node_obstacle{_OF}", "{{reason}}")),
            curve("Steps", "ops", Query(summed("rbdgate_plan_steps_total", "step"), "{{step}}"), span=HALF),
            curve("Steps that failed", "ops", Query(failed, "{{step}} {{reason}}"), span=HALF),
        ),
    )


def _needs() -> Row:
    def failures(figure: str) -> str:
        return or_none(f"sum by (operation, reason) (rate({figure}{_OF}[$__rate_interval]))", "operation")

    etcd, rados = f"rbdgate_etcd_request_duration_seconds{_OF}", f"rbdgate_rados_request_duration_seconds{_OF}"
    failed = "{{operation}} {{reason}}"
    return Row(
        "etcd and Ceph",
        (
            curve("Requests to etcd, 99 %", "s", Query(quantile(0.99, etcd, "operation"), "{{operation}}"), span=HALF),
            curve(
                "Requests to etcd that failed",
                "ops",
                Query(failures("rbdgate_etcd_request_errors_total"), failed),
                span=HALF,
            ),
            curve("Acts on Ceph, 99 %", "s", Query(quantile(0.99, rados, "operation"), "{{operation}}"), span=HALF),
            curve(
                "Acts on Ceph that failed",
                "ops",
                Query(failures("rbdgate_rados_request_errors_total"), failed),
                span=HALF,
            ),
            timeline("etcd members that answer it", Query(f"rbdgate_etcd_endpoint_up{_OF}", "{{endpoint}}")),
            curve("Ceph's silence", "s", Query(f"rbdgate_rados_silence_seconds{_OF}", "silence"), span=HALF),
        ),
    )


def _images() -> Row:
    busiest = f"topk(10, sum by (image) (rate(rbdgate_image_bytes_total{_OF}[$__rate_interval])))"
    slowest = f"topk(10, sum by (image) (rate(rbdgate_image_operation_time_seconds_total{_OF}[$__rate_interval])))"
    return Row(
        "Images here",
        (
            curve("Throughput of the ten busiest", "Bps", Query(busiest, "{{image}}")),
            curve("Requests under way in the mean, ten most", "short", Query(slowest, "{{image}}")),
            curve("Sessions", "short", Query(f"sum(rbdgate_image_sessions{_OF})", "sessions")),
        ),
    )


def _process() -> Row:
    cpu = Query(f"rate(process_cpu_seconds_total{_OF}[$__rate_interval])", "processors")
    return Row(
        "The agent's process",
        (
            curve("Processor", "percentunit", cpu),
            curve("Memory", "bytes", Query(f"process_resident_memory_bytes{_OF}", "resident")),
            curve("Open files", "short", Query(f"process_open_fds{_OF}", "open files")),
        ),
    )
