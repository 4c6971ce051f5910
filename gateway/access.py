"""Who may log in to an image, and how: from its spec, the groups and the credentials that could be opened. Pure.

What cannot be read or opened here is *unknown*, never *none*: an image that needs it is not taken up, one that is
served keeps what it has, and nobody is let in without the authentication that was asked of him.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.credentials import Credentials, Unreadable
from gateway.model import ClusterView, ImageSpec, Iqn


@dataclass(frozen=True)
class Opened:
    """What one node could open of a view's sealed credentials, and why not the rest."""

    initiators: Mapping[Iqn, Credentials | Unreadable] = field(default_factory=dict)
    discovery: Credentials | Unreadable | None = None
    """None: discovery asks for no credentials."""


@dataclass(frozen=True)
class Access:
    """Who may log in to one image.

    `initiators` are those of whom it is known how (None: without authentication). `unknown` are others that may log in,
    with the reason why their credentials are not known here. `unlisted` says why there may be more of them.
    """

    initiators: Mapping[Iqn, Credentials | None]
    unknown: Mapping[Iqn, str] = field(default_factory=dict)
    unlisted: str = ""

    @property
    def demanded(self) -> bool:
        """Whether anybody has to authenticate."""
        return bool(self.unknown or self.unlisted) or any(word is not None for word in self.initiators.values())

    @property
    def obstacle(self) -> str:
        """Why an export would not have all of its initiators, in one sentence; empty if it would."""
        reasons = [self.unlisted] if self.unlisted else []
        reasons += [f"the CHAP credentials of {iqn} {reason}" for iqn, reason in sorted(self.unknown.items())]
        return "; ".join(reasons)

    def expects(self, initiator: Iqn) -> bool:
        """Whether an ACL of that initiator is (or may be) there by right."""
        return bool(self.unlisted) or initiator in self.initiators or initiator in self.unknown


def access_of(view: ClusterView, opened: Opened, spec: ImageSpec) -> Access:
    """Who may log in to the image now."""
    known: dict[Iqn, Credentials | None] = {}
    unknown: dict[Iqn, str] = {}
    for iqn in view.initiators_of(spec):
        word = opened.initiators.get(iqn) if iqn in view.credentials else None
        if iqn in view.credentials and word is None:
            word = Unreadable("are not opened")
        if isinstance(word, Unreadable):
            unknown[iqn] = word.reason
        else:
            known[iqn] = word
    unlisted = "; ".join(
        f"group {name} of initiators {view.broken_groups.get(name, 'does not exist')}"
        for name in spec.groups
        if name not in view.groups
    )
    return Access(known, unknown, unlisted)
