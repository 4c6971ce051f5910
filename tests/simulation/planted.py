"""The product with a bug planted in it, one at a time: what the simulation must find.

Each is the real code with one order or one question changed, put in its place for as long as the context lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import agent.cycle
from agent.keeper import LeaseKeeper
from gateway.apply import Hands, Openers, Storage, Store, apply
from gateway.errors import RbdgateError, StorageUnavailable
from gateway.model import HolderRecord, ImageSpec, Instance, Label
from gateway.plan import Situation, plan
from gateway.steps import Claim, FinishAmendment, Map, Plan, Step, TakeHold, Unmap

Bug = Callable[[], AbstractContextManager[None]]


def _instead(name: str, act: Callable[..., Any]) -> AbstractContextManager[Any]:
    return mock.patch.object(agent.cycle, name, act)


@contextmanager
def fence_before_the_claim() -> Iterator[None]:
    """Whoever may have the image open is fenced first, and the claim is won then; after it nobody is asked again."""

    def wrong(step: Step, hands: Hands) -> None:
        if isinstance(step, Claim):
            victims = _who_may_have_it_open(step.spec, hands)
            if victims and hands.storage is not None:
                hands.storage.fence(step.spec, victims)
        if isinstance(step, TakeHold):
            hands = replace(hands, store=_Told(hands.store, frozenset()), storage=_Blind(hands.storage, frozenset()))
        apply(step, hands)

    with _instead("apply", wrong):
        yield


@contextmanager
def records_read_before_the_claim() -> Iterator[None]:
    """Who may have the image open is read first, and the claim is won then; the fence hits who was read."""
    read: dict[tuple[Label, str], frozenset[Instance]] = {}

    def wrong(step: Step, hands: Hands) -> None:
        if isinstance(step, Claim):
            read[hands.node, step.spec.uid] = _who_may_have_it_open(step.spec, hands)
        if isinstance(step, TakeHold):
            victims = read.get((hands.node, step.spec.uid), frozenset())
            hands = replace(hands, store=_Told(hands.store, victims), storage=_Blind(hands.storage, victims))
        apply(step, hands)

    with _instead("apply", wrong):
        yield


@contextmanager
def tenure_counted_after_the_answer() -> Iterator[None]:
    """The keeper reads its clock when the answer to the keepalive has come."""
    right = LeaseKeeper._renew

    def wrong(keeper: LeaseKeeper) -> bool:
        store = keeper._store
        try:
            keeper._store = _Answered(store, store.keepalive(keeper.lease, timeout=keeper._timers.etcd_call))
            return right(keeper)
        except RbdgateError:
            return right(keeper)
        finally:
            keeper._store = store

    with mock.patch.object(LeaseKeeper, "_renew", wrong):
        yield


@contextmanager
def map_before_the_fence() -> Iterator[None]:
    """The image is mapped as soon as the claim is won, and its former holders are fenced afterwards."""

    def wrong(step: Step, hands: Hands) -> None:
        if isinstance(step, TakeHold):
            hands.kernel.map_image(step.spec, step.client)
        if not isinstance(step, Map):
            apply(step, hands)

    with _instead("apply", wrong):
        yield


@contextmanager
def record_keyed_by_node_only() -> Iterator[None]:
    """A node's clients of an earlier life count as its own: they are not told from those it has now."""

    def wrong(step: Step, hands: Hands) -> None:
        if isinstance(step, TakeHold):
            victims = frozenset(i for i in _who_may_have_it_open(step.spec, hands) if _node_of(i) != hands.node)
            hands = replace(hands, store=_Told(hands.store, victims), storage=_Blind(hands.storage, victims))
        apply(step, hands)

    with _instead("apply", wrong):
        yield


@contextmanager
def an_existing_mapping_kept() -> Iterator[None]:
    """A mapping that is there already when an image is taken is used again instead of being made anew."""

    def wrong(situation: Situation) -> Plan:
        right = plan(situation)
        kept = {
            spec.uid
            for spec in situation.view.images.values()
            if situation.kernel.mappings_of(spec)
            and any(isinstance(step, Claim | TakeHold) for step in right.images.get(spec.uid, ()))
        }
        images = {
            uid: tuple(s for s in steps if uid not in kept or not isinstance(s, Map | Unmap))
            for uid, steps in right.images.items()
        }
        return replace(right, images=images)

    with _instead("plan", wrong):
        yield


@contextmanager
def an_amendment_ended_last() -> Iterator[None]:
    """An operator's change of reservations is made, and its key goes when the image is served again."""

    def wrong(situation: Situation) -> Plan:
        decided = plan(situation)
        images = {
            key: tuple(sorted(steps, key=lambda step: isinstance(step, FinishAmendment)))
            for key, steps in decided.images.items()
        }
        return replace(decided, images=images)

    with _instead("plan", wrong):
        yield


BUGS: dict[str, Bug] = {
    bug.__name__.replace("_", "-"): bug
    for bug in (
        fence_before_the_claim,
        records_read_before_the_claim,
        tenure_counted_after_the_answer,
        map_before_the_fence,
        record_keyed_by_node_only,
        an_existing_mapping_kept,
        an_amendment_ended_last,
    )
}


def _who_may_have_it_open(spec: ImageSpec, hands: Hands) -> frozenset[Instance]:
    recorded = {record.instance for record in hands.store.records_of(spec.uid)}
    openers = hands.storage.openers(spec).instances if hands.storage else frozenset()
    return frozenset(recorded) | openers


def _node_of(client: Instance) -> Label:
    return Label("gw" + client.text.partition(":")[0].rpartition(".")[2])


class _Told:
    """A store whose records name only these clients."""

    def __init__(self, store: Store, clients: frozenset[Instance]) -> None:
        self._store, self._clients = store, clients

    def records_of(self, uid: str) -> tuple[HolderRecord, ...]:
        """As told."""
        return tuple(record for record in self._store.records_of(uid) if record.instance in self._clients)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Blind:
    """RADOS that names only these clients as having an image open; its holder is the true one."""

    def __init__(self, storage: Storage | None, clients: frozenset[Instance]) -> None:
        self._storage, self._clients = storage, clients

    def openers(self, spec: ImageSpec) -> Openers:
        """As told."""
        if self._storage is None:
            raise StorageUnavailable("no connection")
        found = self._storage.openers(spec)
        return replace(found, instances=self._clients)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


class _Answered:
    """A store whose keepalive has been answered already."""

    def __init__(self, store: Any, ttl: float) -> None:
        self._store, self._ttl = store, ttl

    def keepalive(self, lease: int, *, timeout: float) -> float:
        """The answer."""
        return self._ttl

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
