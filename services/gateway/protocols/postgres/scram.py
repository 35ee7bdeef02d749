"""The server's side of a SCRAM-SHA-256 exchange (RFC 5802, RFC 7677), in PostgreSQL's dress.

Owns the two messages of each side. Pure: the nonce is given, nothing is read or written. PostgreSQL clients leave
the user name inside the exchange empty, which the SCRAM libraries at hand refuse; hence our own.

    client  SASLInitialResponse   n,,n=,r=<client nonce>
    server  SASLContinue          r=<client nonce><server nonce>,s=<salt>,i=<iterations>
    client  SASLResponse          c=biws,r=<both nonces>,p=<proof>
    server  SASLFinal             v=<server signature>

A role that does not exist, has no password or may not log in goes through the same exchange with a verifier that
no password matches, so that an attacker learns nothing from its course.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256

from orbit.kernel.errors import OrbitError
from orbit.kernel.scram import ITERATIONS, SALT_BYTES, SCHEME, Verifier
from services.gateway.protocols.postgres.wire import ProtocolViolation

MECHANISM = SCHEME
NONCE_BYTES = 18


class AuthenticationFailed(OrbitError):
    """Wrong password, or no such role: the client is not told which."""

    default_sqlstate = "28P01"


def mock_verifier(user: str, secret: bytes) -> Verifier:
    """Return a verifier that no password matches; the salt is always the same for one user, as a real one's is."""
    salt = hmac.digest(secret, b"salt\0" + user.encode(), "sha256")[:SALT_BYTES]
    stored = hmac.digest(secret, b"stored key\0" + user.encode(), "sha256")
    server = hmac.digest(secret, b"server key\0" + user.encode(), "sha256")
    return Verifier(ITERATIONS, salt, stored, server)


class ScramExchange:
    """One exchange. `first`, then `final`; anything malformed is a ProtocolViolation."""

    __slots__ = ("_bound", "_first_bare", "_nonce", "_server_first", "_server_nonce", "_verifier")

    def __init__(self, verifier: Verifier, server_nonce: bytes) -> None:
        self._verifier = verifier
        self._server_nonce = base64.b64encode(server_nonce).decode()
        self._first_bare = ""
        self._server_first = ""
        self._nonce = ""
        self._bound = ""

    def first(self, message: bytes) -> bytes:
        """Take the client's first message; return the server's."""
        text = _ascii(message)
        parts = text.split(",", 2)
        if len(parts) != 3 or not parts[2].startswith("n="):
            raise ProtocolViolation("malformed SCRAM message")
        flag, authorization, self._first_bare = parts
        if flag not in ("n", "y"):
            raise ProtocolViolation("malformed SCRAM message", detail="Channel binding was not offered.")
        if authorization:
            raise OrbitError("client uses authorization identity, but it is not supported", sqlstate="0A000")
        attributes = self._first_bare.split(",")
        if len(attributes) < 2 or not attributes[1].startswith("r=") or len(attributes[1]) < 10:
            raise ProtocolViolation("malformed SCRAM message", detail="The client's nonce is missing.")
        if any(attribute.startswith("m=") for attribute in attributes):
            raise OrbitError("client requires an unsupported SCRAM extension", sqlstate="0A000")
        self._bound = base64.b64encode(f"{flag},,".encode()).decode()
        self._nonce = attributes[1][2:] + self._server_nonce
        salt = base64.b64encode(self._verifier.salt).decode()
        self._server_first = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        return self._server_first.encode()

    def final(self, message: bytes) -> bytes | None:
        """Take the client's final message; return the server's, or None when the proof is wrong."""
        without_proof, comma, encoded_proof = _ascii(message).rpartition(",p=")
        attributes = without_proof.split(",")
        if not comma or len(attributes) < 2 or attributes[0] != f"c={self._bound}":
            raise ProtocolViolation("malformed SCRAM message")
        if attributes[1] != f"r={self._nonce}":
            raise ProtocolViolation("invalid SCRAM response", detail="Nonce does not match.")
        try:
            proof = base64.b64decode(encoded_proof, validate=True)
        except binascii.Error:
            raise ProtocolViolation("malformed SCRAM message", detail="Malformed proof.") from None
        if len(proof) != sha256().digest_size:
            raise ProtocolViolation("malformed SCRAM message", detail="Malformed proof.")
        signed = f"{self._first_bare},{self._server_first},{without_proof}".encode()
        signature = hmac.digest(self._verifier.stored_key, signed, "sha256")
        client_key = bytes(a ^ b for a, b in zip(signature, proof, strict=True))
        if not hmac.compare_digest(sha256(client_key).digest(), self._verifier.stored_key):
            return None
        server_signature = hmac.digest(self._verifier.server_key, signed, "sha256")
        return b"v=" + base64.b64encode(server_signature)


def _ascii(message: bytes) -> str:
    try:
        return message.decode("ascii")
    except UnicodeDecodeError:
        raise ProtocolViolation("malformed SCRAM message") from None
