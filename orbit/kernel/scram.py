"""SCRAM-SHA-256 verifiers: what is stored in place of a password, and how a password is checked against one.

Owns PostgreSQL's stored form `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>` (RFC 5803) and the key
derivation of RFC 5802. The conversation with a client is in `services.gateway.protocols.postgres.scram`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import stringprep
import unicodedata
from dataclasses import dataclass
from hashlib import pbkdf2_hmac, sha256

SCHEME = "SCRAM-SHA-256"
ITERATIONS = 4096
SALT_BYTES = 16
MAX_ITERATIONS = 1_000_000
"""A stored verifier that asks for more is not taken: each check would hold a core for a second."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A stored verifier, decoded."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        def encoded(data: bytes) -> str:
            return base64.b64encode(data).decode()

        keys = f"{encoded(self.stored_key)}:{encoded(self.server_key)}"
        return f"{SCHEME}${self.iterations}:{encoded(self.salt)}${keys}"


def normal_password(password: str) -> bytes:
    """Return the password's bytes after SASLprep (RFC 4013); as given where SASLprep refuses it, as PostgreSQL does."""
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if not stringprep.in_table_b1(character)
    )
    text = unicodedata.normalize("NFKC", mapped)
    return (password if not text or _prohibited(text) else text).encode()


def _prohibited(text: str) -> bool:
    tables = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
        stringprep.in_table_a1,
    )
    if any(table(character) for character in text for table in tables):
        return True
    if not any(map(stringprep.in_table_d1, text)):
        return False
    # Text from right to left must be so throughout, and begin and end with it.
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return not ends or any(map(stringprep.in_table_d2, text))


def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """Return (stored key, server key). Costs milliseconds of a core by design."""
    salted = pbkdf2_hmac("sha256", normal_password(password), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")


def make_verifier(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Return the verifier to store for a password. Costs milliseconds of a core."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    return str(Verifier(iterations, salt, *_keys(password, salt, iterations)))


def parse_verifier(text: str) -> Verifier | None:
    """Return the decoded verifier, or None for text that is not one."""
    try:
        scheme, cost, keys = text.split("$")
        iterations, salt = cost.split(":")
        stored, server = (base64.b64decode(key, validate=True) for key in keys.split(":"))
        decoded = Verifier(int(iterations), base64.b64decode(salt, validate=True), stored, server)
    except (ValueError, binascii.Error):
        return None
    right = scheme == SCHEME and 0 < decoded.iterations <= MAX_ITERATIONS and len(stored) == len(server) == 32
    return decoded if right else None


def verify_password(password: str, verifier: str) -> bool:
    """Return whether the password is the verifier's, in time that does not depend on how wrong it is."""
    decoded = parse_verifier(verifier)
    if decoded is None:
        return False
    stored_key, _ = _keys(password, decoded.salt, decoded.iterations)
    return hmac.compare_digest(stored_key, decoded.stored_key)
