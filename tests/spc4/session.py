"""A session of iSCSI, as small as it can be: log in with a chosen ISID, send SCSI commands one at a time, hang up.

For hundreds of sessions from one host in a few seconds, each with an ISID of its own, which open-iscsi and libiscsi
choose themselves. RFC 7143: login (clause 11.12), SCSI command and response (11.3, 11.4), data-in is not taken. No
digests, no authentication, one connection; whatever else a target sends is refused.
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from gateway.model import Iqn

_HEADER = 48
_LOGIN, _LOGIN_RESPONSE, _COMMAND, _RESPONSE = 0x03, 0x23, 0x01, 0x21
_IMMEDIATE, _FINAL, _WRITES = 0x40, 0x80, 0x20
_OPERATIONAL, _FULL_FEATURE = 1, 3
_CHECK_CONDITION = 0x02
_UNIT_ATTENTION = 6
BOUND = 20.0
"""Seconds that any answer may take."""


class Session:
    """One session of an initiator's with a target's portal while the `with` block lasts; OSError if it is refused."""

    def __init__(self, portal: tuple[str, int], initiator: Iqn, target: Iqn, isid: str) -> None:
        self._portal, self._initiator, self._target, self._isid = portal, initiator, target, bytes.fromhex(isid)
        self._wire: socket.socket | None = None
        self._number, self._expected = 1, 0  # CmdSN, ExpStatSN

    def __enter__(self) -> Session:
        self._wire = socket.create_connection(self._portal, BOUND)
        words = {
            "InitiatorName": str(self._initiator),
            "TargetName": str(self._target),
            "SessionType": "Normal",
            "HeaderDigest": "None",
            "DataDigest": "None",
            "MaxRecvDataSegmentLength": "65536",
            # All that LIO would ask for otherwise, and wait for an answer.
            "MaxConnections": "1",
            "InitialR2T": "No",
            "ImmediateData": "Yes",
            "MaxBurstLength": "65536",
            "FirstBurstLength": "65536",
            "DefaultTime2Wait": "0",
            "DefaultTime2Retain": "0",
            "MaxOutstandingR2T": "1",
            "DataPDUInOrder": "Yes",
            "DataSequenceInOrder": "Yes",
            "ErrorRecoveryLevel": "0",
        }
        text = b"".join(f"{key}={value}\0".encode() for key, value in words.items())
        while True:  # each answer may leave something to say
            flags = _FINAL | _OPERATIONAL << 2 | _FULL_FEATURE
            fields = struct.pack(">6sHIHxxII16x", self._isid, 0, 0, 0, self._number, self._expected)
            self._send(_LOGIN | _IMMEDIATE, flags, fields, text)
            header, _ = self._receive(_LOGIN_RESPONSE)
            self._expected = struct.unpack_from(">I", header, 24)[0] + 1
            status = struct.unpack_from(">H", header, 36)[0]
            if status:
                raise ConnectionRefusedError(f"login of {self._initiator}: status {status:#06x}")
            if header[1] & _FINAL:
                return self
            text = b""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._wire is not None
        self._wire.close()

    def command(self, cdb: bytes, out: bytes = b"") -> int:
        """The SCSI status of a command that writes `out`; after a unit attention it is sent anew."""
        while True:
            flags = _FINAL | (_WRITES if out else 0)
            fields = struct.pack(">8xIIII16s", self._number, len(out), self._number, self._expected, cdb)
            self._number += 1
            self._send(_COMMAND, flags, fields, out)
            header, data = self._receive(_RESPONSE)
            self._expected = struct.unpack_from(">I", header, 24)[0] + 1
            attention = header[3] == _CHECK_CONDITION and len(data) > 4 and data[4] & 0x0F == _UNIT_ATTENTION
            if not attention:
                return header[3]

    def _send(self, opcode: int, flags: int, fields: bytes, data: bytes) -> None:
        assert self._wire is not None
        header = struct.pack(">BBxx", opcode, flags) + struct.pack(">I", len(data)) + fields
        assert len(header) == _HEADER, len(header)
        self._wire.sendall(header + data + bytes(-len(data) % 4))

    def _receive(self, wanted: int) -> tuple[bytes, bytes]:
        header = self._exactly(_HEADER)
        length = int.from_bytes(header[5:8])
        data = self._exactly(length + -length % 4)[:length]
        if header[0] & 0x3F != wanted:
            raise ConnectionAbortedError(f"a PDU of opcode {header[0] & 0x3F:#04x} where {wanted:#04x} is due")
        return header, data

    def _exactly(self, size: int) -> bytes:
        assert self._wire is not None
        said = b""
        while len(said) < size:
            piece = self._wire.recv(size - len(said))
            if not piece:
                raise ConnectionResetError("the target hung up")
            said += piece
        return said
