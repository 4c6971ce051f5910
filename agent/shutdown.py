"""Tells a machine that goes down from an agent that is restarted: the one leaves, the other touches nothing."""

from __future__ import annotations

import subprocess

import structlog

log = structlog.get_logger("shutdown")

ASK_BOUND = 2.0
"""How long systemd may take to say what it is doing, in seconds."""

LEAVE_BOUND = 20.0
"""How long an agent may take to give everything away, in seconds; `TimeoutStopSec=` of its unit is longer."""


def machine_is_stopping(command: tuple[str, ...] = ("systemctl", "is-system-running")) -> bool:
    """Whether systemd says that the whole machine is shutting down; where nobody says so it is not."""
    try:
        # systemctl asks the manager over its own socket, so that this works after the bus has gone.
        answer = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=ASK_BOUND, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("systemd does not say whether the machine goes down", error=str(error))
        return False
    return answer.stdout.strip() == b"stopping"
