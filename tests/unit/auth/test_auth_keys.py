"""The signing key, derived from the secret."""

from __future__ import annotations

import base64

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from sd_auth.tokens import Tokens, as_jwk
from sd_common.auth_messages import AUDIENCE, ISSUER

_SECRET_KEY = "0123456789abcdef0123456789abcdef"


def _tokens(secret_key: str = _SECRET_KEY) -> Tokens:
    return Tokens(SecretStr(secret_key), [], expire_minutes=1)


def test_the_derivation_is_pinned() -> None:
    """A change of it would end all tokens, and replicas of two versions would disagree: never by accident."""
    [key] = _tokens().public_keys.keys
    assert key.x == "W1vP4zysjSMkddJ284Y4If7rHq45Nu_tSypQGfaN-aI"
    assert key.kid == "wcwB9hgzrH-Xg7YkytYiz6g7O8hs2Qa6wviaTG4E7Ik"


def test_the_key_id_is_its_thumbprint() -> None:
    """The example of RFC 8037, appendices A.1 to A.3."""
    private = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    key = as_jwk(Ed25519PrivateKey.from_private_bytes(private))
    assert key.x == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_changed_token_does_not_verify() -> None:
    tokens = _tokens()
    [key] = jwt.PyJWKSet.from_json(tokens.public_keys.model_dump_json()).keys
    header, payload, signature = tokens.mint("alice").access_token.split(".")
    other_payload = tokens.mint("mallory").access_token.split(".")[1]
    decoded = jwt.decode(f"{header}.{payload}.{signature}", key, ["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
    assert decoded["sub"] == "alice"
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(f"{header}.{other_payload}.{signature}", key, ["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
