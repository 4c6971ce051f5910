"""The xattr `rbdgate.holder` as a value: who holds an image, as the image itself says it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gateway.errors import BadInput, Inconsistent, NewerSchema
from gateway.model import Instance, Label

HOLDER_XATTR = "rbdgate.holder"
_SCHEMA = 1


@dataclass(frozen=True)
class Holder:
    """Who holds an image, as its header tells: the claim's token and every instance that may write to the image.

    `released` says that a clean unmap was read back: nothing of this holder needs to be fenced.
    """

    token: int
    node: Label
    instances: tuple[Instance, ...]
    released: bool = False

    @classmethod
    def decode(cls, raw: bytes) -> Holder:
        """Read the xattr's JSON; NewerSchema or Inconsistent if it cannot be understood."""
        value = _known_schema(raw)
        try:
            instances = tuple(Instance(text) for text in value["instances"])
            return cls(int(value["token"]), Label(value["node"]), instances, bool(value["released"]))
        except (ValueError, KeyError, TypeError, BadInput) as error:
            raise _damaged(error) from None

    def encode(self) -> bytes:
        """The xattr's JSON."""
        value = {
            "version": _SCHEMA,
            "token": self.token,
            "node": self.node.text,
            "instances": [instance.text for instance in self.instances],
            "released": self.released,
        }
        return json.dumps(value, separators=(",", ":")).encode()


def _known_schema(raw: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(raw)
        version = int(value["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(error) from None
    if version > _SCHEMA:
        raise NewerSchema(f"{HOLDER_XATTR} has version {version}; this node understands {_SCHEMA}")
    return value


def _damaged(error: Exception) -> Inconsistent:
    return Inconsistent(
        f"{HOLDER_XATTR} is damaged ({type(error).__name__}: {error}): who holds the image is not known"
    )
