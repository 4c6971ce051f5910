"""Strict reading of a stored JSON form: every key is asked for by its type, and none may be left over. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import BadInput, NewerSchema

SCHEMA = 1
"""The version this code writes, and the newest it reads."""

_LARGEST = 2**63 - 1  # etcd's revisions and leases and RBD's sizes are 64-bit


@contextmanager
def reading(where: str, value: bytes) -> Iterator[Fields]:
    """A form to read whole: an error inside names `where`, and keys left over at the end are refused."""
    form = Fields.of_form(where, value)
    try:
        yield form
    except BadInput as error:
        raise _located(where, error) from None
    form.finish()


def write_form(**values: object) -> bytes:
    """The bytes of a form with these keys, under the present schema."""
    return json.dumps({"schema": SCHEMA, **values}, separators=(",", ":")).encode("utf-8")


class Fields:
    """One JSON object being read: each getter takes a key out, `finish` refuses what is left."""

    def __init__(self, where: str, values: object) -> None:
        if not isinstance(values, dict):
            raise BadInput(f"{where}: expected a JSON object, found {_kind(values)}")
        self._where, self._left = where, dict(values)

    @classmethod
    def of_form(cls, where: str, value: bytes) -> Fields:
        """Read a stored value's bytes and check its schema version; `where` is its key in etcd."""
        try:
            parsed = json.loads(value.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: the value is no JSON: {error}") from None
        form = cls(where, parsed)
        schema = form.number("schema")
        if schema > SCHEMA:
            raise NewerSchema(
                f"{where}: written with schema {schema}, this version reads up to {SCHEMA}; upgrade rbdgate here"
            )
        if schema != SCHEMA:
            raise BadInput(f"{where}: there is no schema {schema}")
        return form

    def text(self, key: str) -> str:
        """A string."""
        value = self._take(key)
        if not isinstance(value, str):
            raise BadInput(f"{self._where}: {key} should be a string, found {_kind(value)}")
        return value

    def number(self, key: str) -> int:
        """An integer of at most 63 bits, not negative."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise BadInput(f"{self._where}: {key} should be an integer from 0 to 2^63 - 1, found {_kind(value)}")
        return value

    def flag(self, key: str) -> bool:
        """A JSON true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise BadInput(f"{self._where}: {key} should be true or false, found {_kind(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(key)
        texts = tuple(value for value in values if isinstance(value, str))
        if len(texts) != len(values):
            raise BadInput(f"{self._where}: {key} should be a list of strings")
        return texts

    def optional_text(self, key: str) -> str | None:
        """A string or null; the key is there either way."""
        if self._left.get(key, "") is None:
            self._take(key)
            return None
        return self.text(key)

    def has(self, key: str) -> bool:
        """Whether a key that may be left out is there."""
        return key in self._left

    def ignore_rest(self) -> None:
        """Let keys nobody asked for be: this form is also written by newer versions than this one."""
        self._left.clear()

    def inner(self, key: str) -> Fields:
        """An object inside this one."""
        return Fields(f"{self._where}: {key}", self._take(key))

    def objects(self, key: str) -> tuple[Fields, ...]:
        """A list of objects."""
        return tuple(Fields(f"{self._where}: {key}[{index}]", each) for index, each in enumerate(self._list(key)))

    def finish(self) -> None:
        """Refuse keys nobody asked for."""
        if self._left:
            raise BadInput(f"{self._where}: unknown key {min(self._left)!r}")

    def _list(self, key: str) -> list[object]:
        value = self._take(key)
        if not isinstance(value, list):
            raise BadInput(f"{self._where}: {key} should be a list, found {_kind(value)}")
        return list(value)

    def _take(self, key: str) -> object:
        if key not in self._left:
            raise BadInput(f"{self._where}: key {key!r} is missing")
        return self._left.pop(key)


def _located(where: str, error: BadInput) -> BadInput:
    """The same error with the key it was read from, once."""
    text = str(error)
    return error if text.startswith(where) else type(error)(f"{where}: {text}")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), repr(value)[:40])


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands in it twice")
    return values


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")
