"""Inside an initiator: SCSI commands to this node's /dev/sgN, one at a time, each exactly as it was answered.

A line of JSON comes in on standard input: `device`, `cdb` and `out` (hex), `in` (bytes to read), `timeout` (seconds).
One goes out: `status` (SAM's), `host` and `driver` (0: it was delivered), `sense` (key, ASC, ASCQ, or null), `data`
(hex), and `attentions`: the unit attentions that were told before, each after which the command was sent anew. Or
`failed`: the device could not be used at all.

Runs under Debian's own Python with the checkout's `gateway` beside it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import sys
from typing import Any

from gateway.errors import RbdgateError
from gateway.reservations.sg import ScsiDevice, SgIoHdr, parse_sense

UNIT_ATTENTION = 6


class Witness:
    """An ioctl that remembers how each command was answered."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []

    def __call__(self, descriptor: int, request: int, argument: SgIoHdr | ctypes.c_int) -> None:
        """Do it, and remember."""
        fcntl.ioctl(descriptor, request, argument)
        if isinstance(argument, SgIoHdr):
            sense = parse_sense(ctypes.string_at(argument.sbp, argument.sb_len_wr) if argument.sb_len_wr else b"")
            self.answers.append(
                {
                    "status": argument.status,
                    "host": argument.host_status,
                    "driver": argument.driver_status & 0x07,  # 0x08 says only that there is sense data
                    "sense": (sense.key, sense.asc, sense.ascq) if sense else None,
                }
            )


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Send one command, and say how it was answered."""
    witness, data, failed = Witness(), b"", ""
    try:
        with ScsiDevice(asked["device"], witness) as device:
            data = device.command(
                bytes.fromhex(asked["cdb"]),
                data_out=bytes.fromhex(asked["out"]),
                length_in=asked["in"],
                timeout=asked["timeout"],
            )
    except RbdgateError as error:
        failed = str(error)
    if not witness.answers:
        return {"failed": failed}
    *before, last = witness.answers
    told = [each["sense"][1:] for each in before if each["sense"] and each["sense"][0] == UNIT_ATTENTION]
    return {**last, "data": data.hex(), "attentions": told}


def main() -> None:
    """Answer line by line until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
