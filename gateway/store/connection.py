"""One member as it is reached: a channel, secured as the node's papers say, and a token of the user who asks.

A token is the member's own: etcd makes it, another member may not know it yet, and one that restarts has forgotten it.
So each connection logs in by itself, at its first call and whenever its token counts no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import BadSettings
from gateway.store import wire
from gateway.store.papers import Papers
from gateway.store.security import Identity
from gateway.store.wire import Message, Verdict, etcdrpc

Stub = Message
"""The calls of one gRPC service on one channel; they have no types either."""


@dataclass(frozen=True)
class Token:
    """A login's outcome: etcd's word for it; empty while etcd asks nobody for a user."""

    text: str


class LoginFailed(Exception):
    """No token: `verdict` says whether another member may give one."""

    def __init__(self, words: str, verdict: Verdict) -> None:
        super().__init__(words)
        self.verdict = verdict


class Connection:
    """One endpoint, `HOST:PORT`, with its own channel; it connects at the first call, not before."""

    def __init__(self, endpoint: str, papers: Papers, identity: Identity | None) -> None:
        """BadSettings if the endpoint is not `HOST:PORT`."""
        host, colon, port = endpoint.rpartition(":")
        if not (colon and host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
            raise BadSettings(f"etcd endpoint {endpoint!r} is not HOST:PORT; write for example 192.0.2.1:2379")
        self.endpoint = endpoint
        self._papers = papers
        self._channel = channel = wire.open_channel(endpoint, identity)
        self._logging_in = threading.Lock()
        self._token: Token | None = None
        self._auth: Stub = etcdrpc.AuthStub(channel)
        self.kv: Stub = etcdrpc.KVStub(channel)
        self.leases: Stub = etcdrpc.LeaseStub(channel)
        self.maintenance: Stub = etcdrpc.MaintenanceStub(channel)
        self.members: Stub = etcdrpc.ClusterStub(channel)
        self.watches: Stub = etcdrpc.WatchStub(channel)

    @property
    def token(self) -> Token | None:
        """The last login's; None before the first."""
        return self._token

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        token = self._token
        return (*wire.METADATA, ("token", token.text)) if token is not None and token.text else wire.METADATA

    def ask(self, call: Callable[[Connection, float], Message], left: Callable[[], float]) -> Message:
        """Make a call, logged in, and anew if the token turns out not to count; `left` tells the seconds there are.

        RpcError as the call's own; LoginFailed says that the call was not made, or was refused without being done.
        """
        token = self.log_in(None, left)
        try:
            return call(self, left())
        except wire.RpcError as error:
            if not self._needs_login(error, token):
                raise
        self.log_in(token, left)
        return call(self, left())

    def log_in(self, spent: Token | None, left: Callable[[], float]) -> Token | None:
        """A token other than the `spent` one; None where the settings name no user; LoginFailed without one."""
        user = self._papers.security.user
        if user is None:
            return None
        if not self._logging_in.acquire(timeout=left()):
            raise LoginFailed("another login has not come back", Verdict.NOT_DONE)
        try:
            if self._token is None or self._token is spent:
                self._token = self._authenticate(user, left)
            return self._token
        finally:
            self._logging_in.release()

    def close(self) -> None:
        """Close the channel; calls that are under way end as cancelled."""
        self._channel.close()

    def _needs_login(self, error: Message, token: Token | None) -> bool:
        """A certificate that names no user of etcd's is told the second, once authentication was enabled."""
        if token is None:
            return False
        return wire.verdict(error) is Verdict.LOGIN_NEEDED or (not token.text and wire.forbidden(error))

    def _authenticate(self, user: str, left: Callable[[], float]) -> Token:
        passwords = self._papers.passwords
        file = self._papers.security.password_file
        refusal = LoginFailed(f"etcd refuses user {user} with the password in {file}", Verdict.REFUSED)
        try:
            candidates = passwords.candidates()
        except BadSettings as error:
            raise LoginFailed(str(error), Verdict.REFUSED) from None
        for password in candidates:
            request = etcdrpc.AuthenticateRequest(name=user, password=password.plain)
            try:
                reply = self._auth.Authenticate(request, left())
            except wire.RpcError as error:
                if wire.login_unknown(error):
                    return Token("")
                if wire.verdict(error) is not Verdict.REFUSED:
                    # Whatever became of the login, the call that it was for has not been made.
                    raise LoginFailed(wire.describe(error), Verdict.NOT_DONE) from error
            else:
                passwords.took(password)
                return Token(reply.token)
        if candidates:
            passwords.refused()
        raise refusal
