"""The signing key, derived from the secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from sd_auth.errors import InvalidToken
from sd_auth.tokens import Tokens, as_jwk
from sd_common.auth_messages import AUDIENCE, ISSUER

_SECRET_KEY = "0123456789abcdef0123456789abcdef"


_OTHER_SECRET_KEY = "fedcba9876543210fedcba9876543210"


def _tokens(secret_key: str = _SECRET_KEY, *previous: str, expire_minutes: int = 1) -> Tokens:
    return Tokens(SecretStr(secret_key), [SecretStr(each) for each in previous], expire_minutes)


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


def test_tokens_of_previous_keys_verify_and_new_ones_are_signed_with_the_first() -> None:
    old = _tokens().mint("alice").access_token
    rotated = _tokens(_OTHER_SECRET_KEY, _SECRET_KEY)
    assert rotated.verify(old).username == "alice"
    keys = rotated.public_keys.keys
    assert [key.kid for key in keys] == [
        each.public_keys.keys[0].kid for each in (_tokens(_OTHER_SECRET_KEY), _tokens())
    ]
    new = rotated.mint("alice").access_token
    assert jwt.get_unverified_header(new)["kid"] == keys[0].kid
    with pytest.raises(InvalidToken):
        _tokens(_OTHER_SECRET_KEY).verify(old)


def test_a_key_that_is_listed_twice_is_one() -> None:
    assert len(_tokens(_SECRET_KEY, _SECRET_KEY).public_keys.keys) == 1


def test_what_is_stored_of_a_revoked_token_is_its_id_and_its_end() -> None:
    token = _tokens().mint("alice").access_token
    claims = jwt.decode(token, options={"verify_signature": False})
    revoked = _tokens().verify(token).revoked
    assert (revoked.token_id, revoked.expires_at.timestamp()) == (claims["jti"], claims["exp"])


@pytest.mark.parametrize("token", ["", "junk", "a.b.c", "\udcff.\udcff.\udcff"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        _tokens().verify(token)


def test_an_expired_token_is_refused() -> None:
    with pytest.raises(InvalidToken):
        _tokens().verify(_tokens(expire_minutes=-1).mint("alice").access_token)


def test_only_the_one_algorithm_is_accepted() -> None:
    tokens = _tokens()
    _, payload, _ = tokens.mint("alice").access_token.split(".")
    kid = tokens.public_keys.keys[0].kid
    for algorithm in ("none", "HS256"):
        head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": kid}).encode()).rstrip(b"=").decode()
        secret = tokens.public_keys.keys[0].x.encode()
        signed = hmac.new(secret, f"{head}.{payload}".encode(), hashlib.sha256).digest()
        signature = "" if algorithm == "none" else base64.urlsafe_b64encode(signed).rstrip(b"=").decode()
        with pytest.raises(InvalidToken):
            tokens.verify(f"{head}.{payload}.{signature}")


def test_a_changed_token_does_not_verify() -> None:
    tokens = _tokens()
    [key] = jwt.PyJWKSet.from_json(tokens.public_keys.model_dump_json()).keys
    header, payload, signature = tokens.mint("alice").access_token.split(".")
    other_payload = tokens.mint("mallory").access_token.split(".")[1]
    decoded = jwt.decode(f"{header}.{payload}.{signature}", key, ["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
    assert decoded["sub"] == "alice"
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(f"{header}.{other_payload}.{signature}", key, ["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
