"""From the first packet to ReadyForQuery: encryption, authentication, the session's settings.

Owns what happens before a statement may run. The connection hands it packets and does what it asks; everything that
goes wrong here is FATAL. The only tasks of a connection are made here, one for each of the few awaited steps.
"""

from __future__ import annotations

import os
from typing import Final

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.scram import Verifier, parse_verifier
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.scram import (
    MECHANISM,
    NONCE_BYTES,
    AuthenticationFailed,
    ScramExchange,
    mock_verifier,
)
from services.gateway.protocols.postgres.wire import ProtocolViolation, Startup
from services.storage.client import Credentials

SERVER_VERSION: Final = "15.18"
"""The PostgreSQL whose behaviour is spoken: drivers choose their queries by it."""

_REPORTED: Final = {
    "server_version": SERVER_VERSION,
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "integer_datetimes": "on",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "application_name": "",
    "default_transaction_read_only": "off",
    "in_hot_standby": "off",
}
"""ParameterStatus at the start; the session tells what changes."""
_REPORTED_NAMES: Final = {name.lower(): name for name in _REPORTED}
_UTF8: Final = frozenset(("utf8", "utf-8", "unicode", "sql_ascii"))
"""SQL_ASCII is what psql asks for in the C locale: bytes as they are."""
_FALSE: Final = frozenset(("", "0", "false", "off", "no"))


class Greeting:
    """The identity of one connection on its way to a session."""

    __slots__ = ("_credentials", "_exchange", "_mock_secret", "database", "long_key", "settings", "user")

    def __init__(self, mock_secret: bytes) -> None:
        self._mock_secret = mock_secret
        self._credentials: Credentials | None = None
        self._exchange: ScramExchange | None = None
        self.user = ""
        self.database = ""
        self.settings: dict[str, str] = {}
        self.long_key = False
        """Whether the client takes the longer cancel keys of protocol 3.2."""

    def start(self, startup: Startup) -> bytes:
        """Take the start-up message; return a NegotiateProtocolVersion message, or nothing."""
        major, minor = startup.protocol >> 16, startup.protocol & 0xFFFF
        if major != 3:
            raise NotSupported(f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")
        parameters = dict(startup.parameters)
        unknown = [name for name in parameters if name.startswith("_pq_.")]
        for name in unknown:
            del parameters[name]
        self.long_key = minor >= 2
        self.user = parameters.pop("user", "")
        if not self.user:
            raise OrbitError("no PostgreSQL user name specified in startup packet", sqlstate="28000")
        self.database = parameters.pop("database", "") or self.user
        if parameters.pop("replication", "").lower() not in _FALSE:
            raise NotSupported("streaming replication connections are not supported")
        encoding = parameters.pop("client_encoding", "UTF8")
        if encoding.lower().strip("'\"") not in _UTF8:
            raise OrbitError(f'invalid value for parameter "client_encoding": "{encoding}"', sqlstate="22023")
        self.settings = {**wire.startup_options(parameters.pop("options", "")), **parameters}
        if minor > 2 or minor == 1 or unknown:
            newest = wire.PROTOCOL_3_2 if minor >= 2 else wire.PROTOCOL_3_0
            return wire.negotiate_version(newest, unknown)
        return b""

    def identify(self, credentials: Credentials | None) -> bytes:
        """Take what the backend knows of the user; return the challenge."""
        self._credentials = credentials
        verifier: Verifier | None = None
        if credentials is not None and credentials.verifier is not None:
            verifier = parse_verifier(credentials.verifier)
        verifier = verifier or mock_verifier(self.user, self._mock_secret)
        self._exchange = ScramExchange(verifier, os.urandom(NONCE_BYTES))
        return wire.authentication_sasl([MECHANISM])

    def begin_proof(self, mechanism: str, data: bytes) -> bytes:
        """Take SASLInitialResponse; return AuthenticationSASLContinue."""
        if mechanism != MECHANISM:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        assert self._exchange is not None
        return wire.authentication_sasl_continue(self._exchange.first(data))

    def end_proof(self, data: bytes) -> bytes:
        """Take SASLResponse; return AuthenticationSASLFinal and AuthenticationOk. Raises AuthenticationFailed."""
        assert self._exchange is not None
        final = self._exchange.final(data)
        if final is None or self._credentials is None:
            raise AuthenticationFailed(f'password authentication failed for user "{self.user}"')
        if not self._credentials.login:
            raise OrbitError(f'role "{self.user}" is not permitted to log in', sqlstate="28000")
        return wire.authentication_sasl_final(final) + wire.AUTHENTICATION_OK

    def welcome(self, version: str) -> bytes:
        """Return the ParameterStatus messages of a new session. `version` is the engine's."""
        reported = {**_REPORTED, "session_authorization": self.user, "orbit_version": version}
        for name, value in self.settings.items():
            if (known := _REPORTED_NAMES.get(name.lower())) is not None and known != "server_version":
                reported[known] = value
        return b"".join([wire.parameter_status(name, value) for name, value in reported.items()])
