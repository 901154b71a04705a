"""Whose requests without a token are."""

from __future__ import annotations

import asyncio

import pytest
from unit.gateway.conftest import Auth, Signer

from sd_gateway.authn import Authenticator, Identity
from sd_gateway.errors import NotAuthenticated
from support.clock import Clock


async def test_without_a_token_nobody_is_let_in_where_the_operator_does_not_allow_it(
    authenticator: Authenticator, auth: Auth
) -> None:
    for _ in range(10):
        with pytest.raises(NotAuthenticated, match=r"^A token is needed"):
            await authenticator.identify(None)
    assert auth.num_public_asked == 1


async def test_without_a_token_everybody_shares_a_session_for_a_while(
    authenticator: Authenticator, auth: Auth, signer: Signer, clock: Clock
) -> None:
    auth.public = signer.token(sub="all", sid="public-1")
    for _ in range(10):
        assert await authenticator.identify(None) == Identity("all", "public-1")
    assert auth.num_public_asked == 1
    auth.public = signer.token(sub="all", sid="public-2")
    clock.now += 61
    assert await authenticator.identify(None) == Identity("all", "public-2")


async def test_requests_without_a_token_at_once_ask_once_and_share_a_session(
    authenticator: Authenticator, auth: Auth, signer: Signer
) -> None:
    auth.public = signer.token(sub="all", sid="public-1")
    requests = [asyncio.ensure_future(authenticator.identify(None)) for _ in range(50)]
    await asyncio.sleep(0)
    requests.pop(0).cancel()  # a client that goes away does not end what the others wait for
    assert set(await asyncio.gather(*requests)) == {Identity("all", "public-1")}
    assert auth.num_public_asked == 1


async def test_public_access_that_the_operator_ends_ends(
    authenticator: Authenticator, auth: Auth, signer: Signer, clock: Clock
) -> None:
    auth.public = signer.token(sub="all")
    await authenticator.identify(None)
    auth.public = None
    clock.now += 61
    with pytest.raises(NotAuthenticated):
        await authenticator.identify(None)
