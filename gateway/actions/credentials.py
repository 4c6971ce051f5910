"""What initiators and discovery have to prove themselves with: sealed here, stored, and seen applied.

Nothing is stored that a live gateway could not open: it would be without it after the next move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from gateway.actions.changing import behind
from gateway.actions.looking import look
from gateway.actions.waiting import Patience, Pending
from gateway.credentials import Credentials, SealedCredentials, Unreadable
from gateway.errors import Inconsistent, NotFound, Refused
from gateway.model import ClusterView, ImageSpec, Iqn, Label
from gateway.store.cluster import ClusterStore
from gateway.vault import Vault


def set_initiator(store: ClusterStore, vault: Vault, iqn: Iqn, credentials: Credentials) -> int:
    """Have an initiator prove itself with these, at every image; returns the revision. Refused says who has no key."""
    _refuse_unequal_keys(store.view(), vault)
    return store.put_initiator(iqn, vault.seal(credentials, store.keys.initiator(iqn)))


def clear_initiator(store: ClusterStore, iqn: Iqn) -> int:
    """Let an initiator log in without; NotFound if it does so already."""
    revision = store.delete_initiator(iqn)
    if revision is None:
        raise NotFound(f"no CHAP credentials are set for {iqn}")
    return revision


def of_initiator(store: ClusterStore, iqn: Iqn) -> SealedCredentials:
    """What is set for an initiator, sealed; NotFound if nothing is."""
    return _readable(store.view().credentials.get(iqn), str(iqn))


def set_discovery(store: ClusterStore, vault: Vault, credentials: Credentials) -> int:
    """Have discovery ask for these, on every gateway."""
    _refuse_unequal_keys(store.view(), vault)
    return store.put_discovery(vault.seal(credentials, store.keys.discovery))


def clear_discovery(store: ClusterStore) -> int:
    """Have discovery ask for nothing; NotFound if it does so already."""
    revision = store.delete_discovery()
    if revision is None:
        raise NotFound("discovery asks for no credentials")
    return revision


def of_discovery(store: ClusterStore) -> SealedCredentials:
    """What discovery asks for, sealed; NotFound if for nothing."""
    return _readable(store.view().discovery, "discovery")


def await_access(
    store: ClusterStore, revision: int, concerns: Callable[[ClusterView, ImageSpec], bool], patience: Patience
) -> None:
    """Look on until the holders of all images it concerns agree; what nobody serves agrees when it is taken up."""

    def applied() -> Literal[True] | Pending:
        status = look(store)
        for spec in status.view.images.values():
            if concerns(status.view, spec) and (left := behind(status, spec, revision, _because)):
                return left
        return True

    patience.until(applied)


def await_discovery(store: ClusterStore, revision: int, patience: Patience) -> None:
    """Look on until every live gateway's discovery asks for it."""

    def applied() -> Literal[True] | Pending:
        status = look(store)
        for node in sorted(status.view.live):
            report = status.reports.get(node)
            if report is None or report.discovery < revision:
                said = f" ({report.sentence})" if report else ""
                return Pending(f"{node}'s discovery does not ask for it yet{said}")
        return True

    patience.until(applied)


def _because(error: str) -> str:
    return f" ({error})" if error else ""


def _refuse_unequal_keys(view: ClusterView, vault: Vault) -> None:
    others: dict[Label, str] = {n: word.key_id for n, word in view.live.items() if word.key_id != vault.key_id}
    if others:
        said = ", ".join(f"{node} has {f'key {key}' if key else 'no key'}" for node, key in sorted(others.items()))
        raise Refused(
            f"not every live gateway could open it: this node has key {vault.key_id}, {said}; copy the key file of one"
            " gateway to all others first (`rbdgate secrets show-key-id` compares them)"
        )


def _readable(found: SealedCredentials | Unreadable | None, what: str) -> SealedCredentials:
    if found is None:
        raise NotFound(f"no CHAP credentials are set for {what}")
    if isinstance(found, Unreadable):
        raise Inconsistent(f"the CHAP credentials of {what} {found.reason}; set them anew")
    return found
