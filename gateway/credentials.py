"""CHAP user names and secrets as values: whole, hidden and checked; or sealed, as everybody may see them. Pure.

Rule: a secret's text leaves its value in two places only, `gateway/vault.py` (to be sealed) and `gateway/lio/` (into
the kernel). Whatever else is done with one (a repr, a log line, an error, an f-string) says `***`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import BadInput

SHORTEST, LONGEST = 12, 255
"""Bytes in a secret: RFC 7143 section 9.2.1 wants 96 bits, LIO takes 255 bytes (`iscsi_node_auth`)."""

WIDELY_TAKEN = 16
"""The longest secret that Windows' initiator takes, which takes none under 12 either."""

_USER = re.compile(r"[A-Za-z0-9.+@_/:\[\]-]{1,255}")  # RFC 7143 section 6.1: what a text value is made of
_SECRET = re.compile(r"[!-~]+")

_UNSET = "NULL"
"""What LIO takes for no value at all, in front of whatever follows (`__DEF_NACL_AUTH_STR`)."""


@dataclass(frozen=True, repr=False)
class Secret:
    """A text that is never shown; any text at all, for the kernel may have one that we would not take."""

    plain: str

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class Credentials:
    """What an initiator proves itself with (CHAP, RFC 7143 section 12.1.3), and where it is mutual the target as well.

    `user` and `secret` are the initiator's, `mutual_user` and `mutual_secret` the target's, or empty and None.
    """

    user: str
    secret: Secret
    mutual_user: str = ""
    mutual_secret: Secret | None = None

    def __post_init__(self) -> None:
        check_user("CHAP user", self.user)
        _check_secret("secret", self.secret)
        if bool(self.mutual_user) != (self.mutual_secret is not None):
            raise BadInput("mutual CHAP needs both a user and a secret of the target")
        if self.mutual_secret is not None:
            check_user("mutual CHAP user", self.mutual_user)
            _check_secret("target's secret", self.mutual_secret)
            if self.mutual_secret == self.secret:
                raise BadInput(
                    "the target's secret is the initiator's: they must differ, or whoever knows one can play the other"
                    " (RFC 7143 section 9.2.1)"
                )

    @property
    def warning(self) -> str:
        """What an operator should know of these, in one sentence; empty if nothing."""
        longest = max(len(secret.plain) for secret in (self.secret, self.mutual_secret) if secret is not None)
        if longest <= WIDELY_TAKEN:
            return ""
        return f"a secret is longer than {WIDELY_TAKEN} characters: Windows' initiator does not take that"


@dataclass(frozen=True)
class SealedCredentials:
    """Credentials as they are stored: user names for all to see, the secrets encrypted with the key named by its id.

    `sealed` is base64; it opens only under the name it was sealed for and with these user names.
    """

    user: str
    mutual_user: str
    key_id: str
    sealed: str

    @property
    def mutual(self) -> bool:
        """Whether the target proves itself, too."""
        return bool(self.mutual_user)


@dataclass(frozen=True)
class Unreadable:
    """What stands in the place of a value that is there and cannot be read: unknown is not absent."""

    reason: str


def check_user(what: str, user: str) -> None:
    """Refuse a user name that cannot travel in a login, or that LIO takes for none."""
    if not _USER.fullmatch(user):
        raise BadInput(f"{what} {user!r}: use 1 to 255 letters, digits and any of . + - @ _ / : [ ]")
    if user.startswith(_UNSET):
        raise BadInput(f"{what} {user!r} begins with {_UNSET}, which LIO takes for none")


def _check_secret(what: str, secret: Secret) -> None:
    if not SHORTEST <= len(secret.plain) <= LONGEST:
        raise BadInput(f"the {what} has {len(secret.plain)} characters: use {SHORTEST} to {LONGEST}")
    if not _SECRET.fullmatch(secret.plain):
        raise BadInput(f"the {what} has a character that is no printable ASCII, or a space")
    if secret.plain.startswith((_UNSET, "0x", "0X", "0b", "0B")):
        raise BadInput(
            f"the {what} begins with {_UNSET}, which LIO takes for none, or like a number (0x, 0b), which initiators"
            " turn into bytes: choose another one"
        )
