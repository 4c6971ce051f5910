"""The cluster at a glance: what is wrong, who holds what, what moved."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from agent.monitoring.building.panels import (
    HALF,
    Query,
    Row,
    choice,
    curve,
    listing,
    many,
    mean,
    number,
    or_none,
    timeline,
)
from agent.monitoring.building.panels import (
    board as made,
)

_WORDS = "Who holds what, what moved and what is wrong, as the agents read it from etcd."
_FIRING = 'ALERTS{job="$job", alertname=~"Rbdgate.*", alertstate="firing"}'
_STATE = 'max by (image, state) (rbdgate_cluster_image_state{job="$job", image=~"$image"})'
_HOLDER = 'max by (image, node) (rbdgate_cluster_image_holder{job="$job", image=~"$image"})'
_TAKEOVERS = 'rbdgate_takeover_duration_seconds{job="$job"}'
_PHASES = 'rbdgate_takeover_phase_duration_seconds{job="$job"}'


def board() -> model.Dashboard:
    """The dashboard `rbdgate-cluster`."""
    image = many(choice("image", "Image", 'label_values(rbdgate_cluster_image_info{job="$job"}, image)'))
    rows = (_now(), _placement(), _moves(), _beneath())
    return made("rbdgate-cluster", "rbdgate: cluster at a glance", _WORDS, [image], rows)


def _now() -> Row:
    figures = (
        number("Alerts that fire", "short", Query(f"count({_FIRING}) or vector(0)")),
        number("Gateways live", "short", Query('sum(max by (node) (rbdgate_cluster_node_live{job="$job"}))')),
        number("Gateways fit", "short", Query('sum(max by (node) (rbdgate_cluster_node_fit{job="$job"}))')),
        number("Moves not finished", "short", Query('max(rbdgate_cluster_moves{job="$job"})')),
        number("Images not where they should be", "short", Query('max(rbdgate_cluster_images_misplaced{job="$job"})')),
        number("etcd was read", "s", Query('time() - max(rbdgate_cluster_read_timestamp_seconds{job="$job"})')),
    )
    alerts = or_none(f"sum by (alertname, severity, node, image) ({_FIRING})", "alertname")
    states = 'max by (state) (rbdgate_cluster_images{job="$job"})'
    return Row(
        "Now",
        (
            *figures,
            listing("What fires", Query(alerts), words="The runbook has a section for each."),
            curve("Images by state", "short", Query(states, "{{state}}"), span=HALF),
        ),
    )


def _placement() -> Row:
    held = f"{_HOLDER} * on (image) group_left (state) {_STATE}"
    nobody = f"{_STATE} unless on (image) {_HOLDER}"
    images = Query('max by (node) (rbdgate_cluster_node_images{job="$job"})', "{{node}}")
    share = Query('max by (node) (rbdgate_cluster_node_images_share{job="$job"})', "share of {{node}}")
    live = Query('max by (node) (rbdgate_cluster_node_live{job="$job"})', "{{node}}")
    return Row(
        "Who holds what",
        (
            listing("Images", Query(f"{held} or {nobody}"), words="Without a node: nobody holds it."),
            timeline("Holders over time", Query(_HOLDER, "{{image}} at {{node}}")),
            curve("Images by gateway", "short", images, share, span=HALF),
            timeline("Gateways live", live),
        ),
    )


def _moves() -> Row:
    takeovers = 'sum by (kind) (increase(rbdgate_takeover_duration_seconds_count{job="$job"}[$__rate_interval]))'
    fences = 'sum by (outcome) (increase(rbdgate_fences_total{job="$job"}[$__rate_interval]))'
    return Row(
        "Moves and takeovers",
        (
            curve("Moves and takeovers", "short", Query(takeovers, "{{kind}}")),
            curve("How long they took", "s", Query(mean(_TAKEOVERS, "$__rate_interval", "kind"), "{{kind}}")),
            curve("Fences", "short", Query(fences, "{{outcome}}")),
            listing(
                "Where the seconds of each go",
                Query(mean(_PHASES, "$__range", "kind, phase")),
                words="Mean seconds of each phase in the time shown.",
            ),
            listing(
                "Seconds of each, in all", Query(mean(_TAKEOVERS, "$__range", "kind")), words="Mean in the time shown."
            ),
        ),
    )


def _beneath() -> Row:
    networks = 'max by (network) (rbdgate_cluster_network_nodes{job="$job"})'
    members = 'max by (endpoint) (rbdgate_etcd_endpoint_up{job="$job"})'
    reachable = 'rbdgate_rados_reachable{job="$job"} * on (instance) group_left (node) rbdgate_agent_info{job="$job"}'
    bytes_ = 'sum by (direction) (rate(rbdgate_image_bytes_total{job="$job"}[$__rate_interval]))'
    return Row(
        "Beneath",
        (
            curve("Gateways on each network", "short", Query(networks, "{{network}}"), span=HALF),
            curve("Throughput of all images", "Bps", Query(bytes_, "{{direction}}"), span=HALF),
            timeline("etcd members that answer", Query(members, "{{endpoint}}")),
            timeline("Gateways that Ceph answers", Query(reachable, "{{node}}")),
        ),
    )
