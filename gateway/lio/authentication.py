"""CHAP in LIO: what an ACL and discovery ask for, written so that there is never a moment without authentication.

The order is the point. Where authentication begins to be asked for, that is written first and the credentials after it:
in between nobody gets in. Where it ends, the credentials go last. A changed secret is written over the old one, and
nothing else moves: sessions stay, for they were authenticated, and the next login needs the new one.
"""

from __future__ import annotations

from gateway.credentials import Credentials, Secret
from gateway.lio.configfs import entries, exists, make_if_missing, read, write, write_secret
from gateway.lio.names import DISCOVERY, ISCSI, UNSET
from gateway.profile import AUTH_FILES, AUTHENTICATION, auth_of


def authenticate(acl: str, credentials: Credentials | None) -> None:
    """Let an ACL's initiator in with these credentials only; None: without any, and without being asked for some."""
    own = f"{acl}/{AUTHENTICATION}"
    if exists(own):
        write(own, "0" if credentials is None else "1")
    _write_auth(f"{acl}/auth", credentials)


def authenticate_all(tpg: str, *, unless_inherited: bool = False) -> None:
    """Have a TPG ask for authentication wherever an ACL does not say otherwise.

    With `unless_inherited`, not on a kernel whose ACLs cannot say otherwise: there it asks nobody.
    """
    acls = entries(f"{tpg}/acls")
    inherited = unless_inherited and any(not exists(f"{tpg}/acls/{acl}/{AUTHENTICATION}") for acl in acls)
    write(f"{tpg}/{AUTHENTICATION}", "0" if inherited else "1")


def set_discovery(credentials: Credentials | None) -> None:
    """Have the node's discovery ask for these credentials; None: for nothing."""
    make_if_missing(ISCSI)
    if credentials is not None:
        close_discovery()
        _write_auth(DISCOVERY, credentials)
    else:
        _enforce("0")
        _write_auth(DISCOVERY, None)


def close_discovery() -> None:
    """Have the node's discovery ask for whatever credentials it has; with none it answers nobody."""
    make_if_missing(ISCSI)
    _enforce("1")


def _enforce(value: str) -> None:
    path = f"{DISCOVERY}/enforce_discovery_auth"
    if read(path) != value:
        write(path, value)


def _write_auth(path: str, credentials: Credentials | None) -> None:
    """Write what differs. Mutual ones go in before and out after the initiator's own: names first, secrets after."""
    wanted = auth_of(credentials)
    for name in AUTH_FILES:
        file = f"{path}/{name}"
        secret = wanted.get(name, Secret(UNSET))
        present = read(file) or ""
        if present != secret.plain and (name in wanted or (not present.startswith(UNSET) and present)):
            write_secret(file, secret)
