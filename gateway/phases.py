"""The phases of a takeover, by the names that events, logs and metrics give them. Pure."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """The parts of a takeover in their order."""

    DETECT = "detect"
    """From the moment this node saw that nobody holds the image to its claim: the stagger, the look, the plan."""
    CLAIM = "claim"
    FENCE = "fence"
    """Who may have it open, their blocklist entries, and the swap of the header."""
    MAP = "map"
    RESTORE = "restore"
    """Reading the reservations on record, and reading back what the kernel has of them."""
    EXPORT = "export"
    """Building the target, and opening its paths."""
    ANNOUNCE = "announce"
    """Telling the network where the addresses are now, and the initiators to look."""
