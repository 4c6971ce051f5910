"""The words of the doctor: a finding, how bad it is, and what could not be looked at. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

NAMES = ("settings", "kernel", "disks", "services", "clocks", "etcd", "ceph", "networks", "leftovers", "gateways")
"""Every subject, in the order in which one's fault explains the next one's."""


class Severity(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was seen, in one sentence, and what to do about it (empty if nothing)."""

    subject: str
    severity: Severity
    text: str
    what_to_do: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as `--json` prints it."""
        values = {"subject": self.subject, "severity": self.severity.value, "text": self.text}
        return values | {"what_to_do": self.what_to_do}


@dataclass(frozen=True)
class Unread:
    """Something that could not be looked at: it is not known to be good, nor bad."""

    what: str
    why: str


@dataclass(frozen=True)
class Subject:
    """A subject's name, and findings about it."""

    name: str

    def ok(self, text: str) -> Finding:
        """Something is as it should be."""
        return Finding(self.name, Severity.OK, text)

    def warning(self, text: str, what_to_do: str) -> Finding:
        """Something costs comfort or will cost more one day; images are served."""
        return Finding(self.name, Severity.WARNING, text, what_to_do)

    def error(self, text: str, what_to_do: str) -> Finding:
        """Something keeps images from being served, or endangers them."""
        return Finding(self.name, Severity.ERROR, text, what_to_do)

    def unread(self, unread: Unread, what_to_do: str = "run the doctor as root; see to what is named there") -> Finding:
        """Something could not be looked at."""
        return self.warning(f"{unread.what} could not be looked at: {unread.why}", what_to_do)
