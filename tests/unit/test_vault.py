"""The vault: what it seals opens with the same key in the same place only, and its key is nobody else's to read."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import schema
from gateway.access import Opened, access_of
from gateway.credentials import Credentials, Secret, Unreadable
from gateway.errors import AlreadyExists, Sealed
from gateway.model import ClusterView, ImageSpec, Iqn, Label
from gateway.store.keys import Keys
from gateway.vault import Vault, create_key, load, open_all
from tests.fakes.operation import SETTINGS
from tests.unit.test_schema import SPEC

VAULT = Vault(bytes(range(32)))
MUTUAL = Credentials("u", Secret("initiators-one"), "t", Secret("targets-other"))
KEYS = Keys()
ALICE, BOB = Iqn("iqn.2026-11.x:alice"), Iqn("iqn.2026-11.x:bob")
MORE = Label("more")
WHERE = KEYS.initiator(ALICE)


@pytest.mark.parametrize(
    "whole", [MUTUAL, Credentials("u", Secret("x" * 255)), Credentials("u", Secret("q\"'\\,;=~12345"))]
)
def test_what_is_sealed_opens(whole: Credentials) -> None:
    """Sealed, stored, read and opened, credentials are the same; sealed twice they do not look the same."""
    once, again = VAULT.seal(whole, WHERE), VAULT.seal(whole, WHERE)
    stored = schema.write_credentials(once)
    assert VAULT.open(schema.read_credentials(stored, WHERE), WHERE) == whole
    assert once != again
    assert whole.secret.plain.encode() not in stored
    assert whole.secret.plain.encode() not in base64.b64decode(json.loads(stored)["sealed"])
    assert len(once.sealed) == len(VAULT.seal(MUTUAL, WHERE).sealed), "the length tells something"


def test_a_sealed_value_is_worth_nothing_elsewhere() -> None:
    """Another key, another initiator's place, another user name, a changed bit: none of them opens."""
    sealed = VAULT.seal(MUTUAL, WHERE)
    other = Vault(bytes(32))
    with pytest.raises(Sealed, match=f"are sealed with key {VAULT.key_id}, and this node has key {other.key_id}"):
        other.open(sealed, WHERE)
    raw = bytearray(base64.b64decode(sealed.sealed))
    raw[20] ^= 1
    for bad, where in (
        (sealed, KEYS.initiator(BOB)),
        (sealed, Keys("/rbdgate/other/").initiator(ALICE)),
        (replace(sealed, user="v"), WHERE),
        (replace(sealed, mutual_user=""), WHERE),
        (replace(sealed, sealed=base64.b64encode(bytes(raw)).decode()), WHERE),
        (replace(sealed, sealed="!"), WHERE),
        (replace(sealed, sealed=""), WHERE),
        (replace(sealed, key_id=other.key_id), WHERE),
    ):
        with pytest.raises(Sealed) as refused:
            (VAULT if bad.key_id == VAULT.key_id else other).open(bad, where)
        assert "are damaged" in str(refused.value)


def test_a_key_is_made_once_and_for_root_only(tmp_path: Path) -> None:
    """A made key loads again; making it twice, an open mode, a foreign owner and garbage are refused."""
    path = tmp_path / "rbdgate" / "secrets.key"
    made = create_key(path)
    assert load(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secrets.key"]
    with pytest.raises(AlreadyExists, match="is there already"):
        create_key(path)
    assert load(path) == made
    assert made.key.hex() not in repr(made) + made.key_id
    for mode in (0o640, 0o604, 0o700):
        path.chmod(mode)
        with pytest.raises(Sealed, match="could be read by others than root"):
            load(path)
    path.chmod(0o400)
    os.chown(path, 65534, 0)
    with pytest.raises(Sealed, match="could be read by others than root"):
        load(path)
    os.chown(path, 0, 0)
    for text in ("", "zz" * 32, "ab" * 31, "ab" * 33):
        path.chmod(0o600)
        path.write_text(text)
        with pytest.raises(Sealed, match="should be 64 hex digits"):
            load(path)
    with pytest.raises(Sealed, match="there is no key of the secrets on this node"):
        load(tmp_path / "none")


def test_a_view_is_opened_as_far_as_it_can_be() -> None:
    """One damaged value spoils no other; without a key all are unknown, and none counts as none."""
    spec = replace(SPEC, initiators=(ALICE, BOB), groups=(MORE,))
    free = Iqn("iqn.2026-11.x:free")
    view = view_of(spec, free)
    broken = replace(view, credentials={**view.credentials, BOB: Unreadable("cannot be read: why")})
    access = access_of(broken, open_all(broken, KEYS, lambda: VAULT), spec)
    assert access.initiators == {ALICE: MUTUAL, free: None}
    assert access.unknown == {BOB: "cannot be read: why"}
    assert access.obstacle == f"the CHAP credentials of {BOB} cannot be read: why"

    def no_key() -> Vault:
        raise Sealed("there is no key")

    access = access_of(view, open_all(view, KEYS, no_key), spec)
    assert access.initiators == {free: None}
    assert access.unknown == dict.fromkeys((ALICE, BOB), "cannot be opened: there is no key")
    assert access.demanded
    assert access_of(view, Opened(), spec).unknown == dict.fromkeys((ALICE, BOB), "are not opened")


def test_a_group_that_is_not_known_is_not_empty() -> None:
    """Members come from known groups, each once; a missing or damaged group is an obstacle that expects anybody."""
    spec = replace(SPEC, initiators=(ALICE,), groups=(Label("hosts"), Label("gone"), Label("bad")))
    view = view_of(spec)
    view = replace(
        view, credentials={}, groups={Label("hosts"): (BOB, ALICE)}, broken_groups={Label("bad"): "cannot be read: why"}
    )
    access = access_of(view, Opened(), spec)
    assert access.initiators == {ALICE: None, BOB: None}
    assert access.obstacle == ("group gone of initiators does not exist; group bad of initiators cannot be read: why")
    assert access.expects(Iqn("iqn.2026-11.x:anybody"))


def test_without_credentials_no_key_is_asked_for() -> None:
    """A cluster without CHAP needs no key file, and opening thousands of values takes a fraction of a second."""
    spec = replace(SPEC, groups=())
    plain = replace(view_of(spec), credentials={})
    assert open_all(plain, KEYS, lambda: pytest.fail("the key was asked for")) == Opened()
    many = {Iqn(f"iqn.2026-11.x:{number}"): VAULT.seal(MUTUAL, "x") for number in range(1000)}
    began = time.monotonic()
    open_all(replace(plain, credentials=many), KEYS, lambda: VAULT)
    assert time.monotonic() - began < 1


def view_of(spec: ImageSpec, *more: Iqn) -> ClusterView:
    """A view of one image, with sealed credentials for alice and bob, and a group of further initiators."""
    return ClusterView(
        revision=9,
        settings=SETTINGS,
        images={spec.name: spec},
        revisions={spec.name: 5},
        broken={},
        nodes={},
        live={},
        claims={},
        records=(),
        moves={},
        fences={},
        groups={MORE: more},
        credentials={iqn: VAULT.seal(MUTUAL, KEYS.initiator(iqn)) for iqn in (ALICE, BOB)},
    )
