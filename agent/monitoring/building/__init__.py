"""The dashboards as code: `python -m agent.monitoring.building` writes their JSON beside this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from agent.monitoring.building import cluster, gateway, image, reservations

DIRECTORY = Path(__file__).parents[1] / "dashboards"


def texts() -> Mapping[str, str]:
    """Every dashboard's JSON by its file name."""
    boards = (each.board() for each in (cluster, gateway, image, reservations))
    return {
        f"{board.uid}.json": json.dumps(board, cls=JSONEncoder, indent=1, sort_keys=True) + "\n" for board in boards
    }
