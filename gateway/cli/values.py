"""How values are written on the command line, and back. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from gateway.errors import BadInput
from gateway.model import Address, Label, parse_address

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}

_PERIODS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def parse_size(text: str) -> int:
    """Bytes, or a number with K, M, G, T or P (powers of 1024): `1G`, `1.5T`, `512M`, `1073741824`."""
    match = re.fullmatch(r"([0-9]{1,18})(?:\.([0-9]{1,6}))?\s*([KMGTP]?)(?:iB|B)?", text, re.IGNORECASE)
    if match is None:
        raise BadInput(f"{text!r} is no size: write bytes or a number with K, M, G, T or P, like 10G")
    whole, fraction, unit = match[1], match[2] or "", _UNITS[match[3].upper()]
    divisor = int("1" + "0" * len(fraction))
    size, rest = divmod(int(whole + fraction) * unit, divisor)
    if rest:
        raise BadInput(f"{text!r} is no whole number of bytes")
    if size <= 0 or size % 512:
        raise BadInput(f"size {text!r} is {size} bytes, not a positive multiple of 512")
    return size


def show_size(size: int | None) -> str:
    """The size with the largest unit that gives at most one digit after the point exactly, else in bytes."""
    if size is None:
        return "?"
    for letter, unit in reversed(_UNITS.items()):
        tenths, rest = divmod(10 * size, unit)
        if letter and tenths >= 10 and not rest:
            return f"{tenths // 10}.{tenths % 10}{letter}".replace(".0", "")
    return str(size)


def parse_named_address(text: str) -> tuple[Label, Address]:
    """NETWORK=IP, as `storage-1=10.0.1.100`."""
    network, equals, address = text.partition("=")
    if not equals:
        raise BadInput(f"{text!r}: write NETWORK=IP, like storage-1=10.0.1.100")
    return Label(network), parse_address(address)


def parse_tagged_address(text: str) -> tuple[int, Address]:
    """TAG=IP, as `1=10.0.1.100`."""
    tag, equals, address = text.partition("=")
    if not equals or not re.fullmatch(r"[1-9][0-9]{0,4}", tag):
        raise BadInput(f"{text!r}: write TAG=ADDRESS with the tag of a target portal group, like 1=10.0.1.100")
    return int(tag), parse_address(address)


def parse_count(text: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise BadInput(f"{text!r} is no number from 1 on")
    return int(text)


def parse_since(text: str) -> timedelta | datetime:
    """How long ago, as `90s`, `30m`, `2h`, `7d`; or when, as ISO 8601 has it, in the local zone if it names none."""
    if match := re.fullmatch(r"([0-9]{1,6})([smhd])", text):
        return int(match[1]) * _PERIODS[match[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is no time: write how long ago, like 30m, 2h or 7d, or 2026-11-22T03:00") from None
    return when.astimezone()


def parse_seconds(text: str) -> float:
    """A number of seconds, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,6})?", text):
        raise BadInput(f"{text!r} is no number of seconds")
    return float(text)


def parse_factor(text: str) -> float:
    """A number above 0."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4})?", text) or not float(text):
        raise BadInput(f"{text!r} is no number above 0")
    return float(text)
