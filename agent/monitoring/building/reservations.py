"""Persistent reservations: how full the tables are, how long a change waits, and what was lost."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from agent.monitoring.building.panels import HALF, Query, Row, choice, curve, listing, many, number, or_none, quantile
from agent.monitoring.building.panels import board as made

_WORDS = "Persistent reservations of all images, as their holders and their guards tell."
_HERE = '{job="$job"}'
_OF = '{job="$job", image=~"$image"}'


def board() -> model.Dashboard:
    """The dashboard `rbdgate-reservations`."""
    image = many(choice("image", "Image", 'label_values(rbdgate_cluster_image_info{job="$job"}, image)'))
    return made("rbdgate-reservations", "rbdgate: reservations", _WORDS, [image], (_now(), _tables(), _commits()))


def _now() -> Row:
    return Row(
        "Now",
        (
            number("Registrations", "short", Query(f"sum(rbdgate_reservation_registrations{_OF})"), span=6),
            number("Images that are reserved", "short", Query(f"sum(rbdgate_reservation_held{_OF})"), span=6),
            number("Changes that wait", "short", Query(f"sum(rbdgate_reservation_held_writes{_HERE})"), span=6),
            number("Longest wait now", "s", Query(f"max(rbdgate_reservation_held_write_age_seconds{_HERE})"), span=6),
        ),
    )


def _tables() -> Row:
    registrations = f"max by (image) (rbdgate_reservation_registrations{_OF})"
    share = f"{registrations} / on () group_left () min(rbdgate_reservation_registrations_limit{_HERE})"
    size = f"topk(10, max by (image) (rbdgate_reservation_table_bytes{_OF}))"
    return Row(
        "Tables",
        (
            listing("Registrations", Query(registrations)),
            curve("Part of the limit, ten fullest", "percentunit", Query(f"topk(10, {share})", "{{image}}"), span=HALF),
            curve("Size of the record, ten largest", "bytes", Query(size, "{{image}}"), span=HALF),
            curve(
                "Reserved", "short", Query(f"max by (image) (rbdgate_reservation_held{_OF})", "{{image}}"), span=HALF
            ),
        ),
    )


def _commits() -> Row:
    duration = f"rbdgate_reservation_commit_duration_seconds{_HERE}"
    commits = f"sum by (image) (rate(rbdgate_reservation_commits_total{_OF}[$__rate_interval]))"
    failures = f"sum by (reason) (increase(rbdgate_reservation_commit_failures_total{_HERE}[$__rate_interval]))"
    return Row(
        "Changes",
        (
            curve("Changes recorded", "ops", Query(or_none(commits, "image"), "{{image}}")),
            curve(
                "Time of a record",
                "s",
                Query(quantile(0.5, duration), "median"),
                Query(quantile(0.99, duration), "99 %"),
            ),
            curve("Changes that wait", "short", Query(f"rbdgate_reservation_held_writes{_HERE}", "{{instance}}")),
            curve("Could not be recorded", "short", Query(or_none(failures, "reason"), "{{reason}}")),
            curve(
                "Met another holder",
                "short",
                Query(f"increase(rbdgate_reservation_lost_races_total{_HERE}[$__rate_interval])", "{{instance}}"),
            ),
            curve(
                "Images cut for their reservations",
                "short",
                Query(f"increase(rbdgate_guard_condemned_total{_HERE}[$__rate_interval])", "{{instance}}"),
            ),
        ),
    )
