"""A time server for hosts of the lab: answers with this machine's clock, and sets nobody's.

    python3 clock.py ADDRESS

NTP version 4, RFC 5905 section 7.3: 48 bytes, times in seconds since 1900 as 32.32 bits.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

_SINCE_1900 = 2208988800
_SERVER, _VERSION, _STRATUM = 4, 4, 2
_PACKET = struct.Struct("!BBbb4s4s4s8s8s8s8s")


def answer(question: bytes, received: float, sent: float) -> bytes:
    """The reply to a client's packet that came at `received`; ValueError for what is no packet."""
    if len(question) < _PACKET.size:
        raise ValueError(f"{len(question)} bytes are no NTP packet")
    asked_at = question[40:48]
    near = struct.pack("!I", 1 << 6)  # root delay and dispersion: 1/1024 s, in 16.16 bits
    stamps = (_stamp(received), asked_at, _stamp(received), _stamp(sent))
    return _PACKET.pack(_VERSION << 3 | _SERVER, _STRATUM, 6, -20, near, near, b"\x7f\x00\x00\x01", *stamps)


def _stamp(seconds: float) -> bytes:
    return struct.pack("!II", int(seconds) + _SINCE_1900, int(seconds % 1 * (1 << 32)))


def serve(address: str) -> None:
    """Answer for good."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((address, 123))
        while True:
            question, asker = door.recvfrom(512)
            if len(question) >= _PACKET.size:
                door.sendto(answer(question, time.time(), time.time()), asker)


if __name__ == "__main__":
    serve(sys.argv[1])
