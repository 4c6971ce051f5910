"""What a command works with and what it has to say."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway.errors import Sealed

if TYPE_CHECKING:  # what a command does not need is not loaded for it
    from gateway.actions.ceph import Ceph
    from gateway.actions.waiting import Patience
    from gateway.lio.logins import Session as Login
    from gateway.model import Iqn, Label
    from gateway.store.cluster import ClusterStore
    from gateway.vault import Vault


def _no_key() -> Vault:
    raise Sealed("this session has no key of the secrets")


@dataclass(frozen=True)
class Session:
    """What a command works with; `node` is this node's name, `warn` takes a sentence for standard error, `vault`
    opens the node's key of the secrets or raises Sealed, `logins` tells who is logged in to a target on this node."""

    store: ClusterStore
    ceph: Ceph
    patience: Patience
    node: Label
    warn: Callable[[str], None]
    vault: Callable[[], Vault] = _no_key
    logins: Callable[[Iqn], Collection[Login]] = lambda _iqn: ()


@dataclass(frozen=True)
class Answer:
    """What a command has to say: to people, and to scripts. One with a `status` other than 0 says it all the same."""

    text: str
    document: Any
    status: int = 0


Run: TypeAlias = Callable[[Session, argparse.Namespace], Answer]
"""A command: from parsed arguments to one act, and from its result to what is printed."""

RunAlone: TypeAlias = Callable[[argparse.Namespace], Answer]
"""A command that needs no session."""
