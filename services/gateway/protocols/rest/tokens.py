"""Bearer tokens: JSON Web Tokens signed with HMAC-SHA256.

Owns their making and checking. A token names its user, its audience, its end, and a fingerprint of the user's
SCRAM verifier, so that a changed password ends it. Only this one algorithm is ever accepted.

    base64url({"alg":"HS256","typ":"JWT"}) . base64url({"sub","aud","iat","exp","ver"}) . base64url(hmac)

Source: RFC 7515, RFC 7519.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import blake2b
from typing import Final

import msgspec

from orbit.kernel.clock import Clock
from services.gateway.authentication import InvalidPassword

AUDIENCE: Final = "orbit-rest"
MIN_SECRET_BYTES: Final = 32
MAX_TOKEN_BYTES: Final = 4096


class InvalidToken(InvalidPassword):
    """A bearer token that is malformed, forged, expired or meant for something else."""

    default_sqlstate = "28000"


class Claims(msgspec.Struct, frozen=True):
    """What a token says. Times in seconds since 1970."""

    sub: str
    aud: str
    iat: int
    exp: int
    ver: str


_HEADER: Final = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
_decode: Final = msgspec.json.Decoder(Claims).decode


class TokenSigner:
    """Makes and checks tokens. All gateways behind one address need the same secret."""

    def __init__(self, secret: bytes, clock: Clock, lifetime_s: int) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the token secret needs at least {MIN_SECRET_BYTES} bytes")
        self._secret = secret
        self._clock = clock
        self.lifetime_s = lifetime_s

    def make(self, user: str, verifier: str) -> str:
        """Return a token for an authenticated user."""
        now = self._clock.now_us() // 1_000_000
        claims = Claims(user, AUDIENCE, now, now + self.lifetime_s, fingerprint(verifier))
        signed = _HEADER + b"." + base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
        return (signed + b"." + self._sign(signed)).decode()

    def check(self, token: str) -> Claims:
        """Return a valid token's claims; `ver` is the caller's to compare with the role. Raises InvalidToken."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise InvalidToken("the bearer token is malformed")
        signed, _, signature = token.encode().rpartition(b".")
        header, _, payload = signed.partition(b".")
        if header != _HEADER or not hmac.compare_digest(signature, self._sign(signed)):
            raise InvalidToken("the bearer token is not valid here")
        try:
            claims = _decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        except (msgspec.DecodeError, binascii.Error) as error:
            raise InvalidToken("the bearer token is malformed") from error
        if claims.aud != AUDIENCE:
            raise InvalidToken("the bearer token is for another audience")
        if claims.exp <= self._clock.now_us() // 1_000_000:
            raise InvalidToken("the bearer token has expired")
        return claims

    def _sign(self, signed: bytes) -> bytes:
        return base64.urlsafe_b64encode(hmac.digest(self._secret, signed, "sha256")).rstrip(b"=")


def fingerprint(verifier: str) -> str:
    """Return a short hash that changes with the password and tells nothing of it."""
    return blake2b(verifier.encode(), digest_size=12, person=b"orbit-token").hexdigest()
