"""Access tokens: JWTs signed with an Ed25519 key that is derived from SECRET_KEY.

Replicas with the same secret agree on the key without telling each other; everybody else verifies with the public one.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_encode
from pydantic import SecretStr

from sd_auth.errors import InvalidToken
from sd_common.auth_messages import (
    ALGORITHM,
    AUDIENCE,
    ISSUER,
    LEEWAY_S,
    AccessToken,
    PublicKey,
    PublicKeys,
    RevokedToken,
)

#: Separates this key from any other that may be derived from SECRET_KEY. Changing it ends all tokens.
_HKDF_INFO = b"stable-diffusion-api/auth/ed25519/v1"
_ED25519_SEED_BYTES = 32
#: Of `sid` and `jti`: 128 bits, nobody guesses another's session.
_RANDOM_BYTES = 16


@dataclass(frozen=True)
class VerifiedToken:
    """A valid token: whose it is, and what is stored where it is revoked."""

    username: str
    revoked: RevokedToken


class Tokens:
    """Mints tokens with one key, and verifies those of previous keys too."""

    def __init__(self, secret_key: SecretStr, previous: Sequence[SecretStr], expire_minutes: int) -> None:
        self._key = _derived_key(secret_key)
        self._kid = as_jwk(self._key).kid
        keys = (as_jwk(key) for key in (self._key, *map(_derived_key, previous)))
        self._public_keys = {key.kid: key for key in keys}
        self._lifetime_s = expire_minutes * 60

    @property
    def public_keys(self) -> PublicKeys:
        """What verifies the tokens."""
        return PublicKeys(keys=list(self._public_keys.values()))

    def verify(self, token: str) -> VerifiedToken:
        """Read a token. Raises `InvalidToken` for one that no key has signed, or that has expired."""
        try:
            key = jwt.PyJWK(self._public_keys[str(jwt.get_unverified_header(token).get("kid"))].model_dump())
            claims = jwt.decode(token, key, [ALGORITHM], audience=AUDIENCE, issuer=ISSUER, leeway=LEEWAY_S)
            expires_at = datetime.fromtimestamp(claims["exp"], UTC)
            return VerifiedToken(claims["sub"], RevokedToken(token_id=claims["jti"], expires_at=expires_at))
        except (jwt.PyJWTError, ValueError, KeyError) as error:  # no key of this id, not UTF-8
            raise InvalidToken from error

    def mint(self, username: str) -> AccessToken:
        """A token of `username`, for a new session."""
        issued_at = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": username,
            "sid": secrets.token_urlsafe(_RANDOM_BYTES),
            "jti": secrets.token_urlsafe(_RANDOM_BYTES),
            "iat": issued_at,
            "exp": issued_at + self._lifetime_s,
        }
        token = jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._kid})
        return AccessToken(access_token=token, expires_in=self._lifetime_s)


def _derived_key(secret_key: SecretStr) -> Ed25519PrivateKey:
    hkdf = HKDF(algorithm=SHA256(), length=_ED25519_SEED_BYTES, salt=None, info=_HKDF_INFO)
    return Ed25519PrivateKey.from_private_bytes(hkdf.derive(secret_key.get_secret_value().encode()))


def as_jwk(key: Ed25519PrivateKey) -> PublicKey:
    """The public half, under the name that it gives itself: its thumbprint."""
    x = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)["x"]
    # RFC 7638: the SHA-256 of the needed members, in this order, without spaces.
    members = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return PublicKey(x=x, kid=base64url_encode(hashlib.sha256(members.encode()).digest()).decode())
