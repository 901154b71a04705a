"""The keys that verify tokens: when they are fetched, and forgotten."""

from __future__ import annotations

import asyncio
import time

import pytest
from unit.gateway.conftest import Auth, Revoked, Signer, assert_refused, create_authenticator, user_of

from sd_common.errors import Unavailable
from sd_gateway.authn import Authenticator, Identity
from support.clock import Clock


async def test_the_keys_are_fetched_for_the_first_token(auth: Auth, signer: Signer, revoked: Revoked) -> None:
    authenticator = create_authenticator(auth, revoked)
    assert await user_of(authenticator, signer.token()) == "alice"
    assert auth.num_asked == 1


async def test_a_new_key_is_fetched_when_a_token_names_it(
    authenticator: Authenticator, auth: Auth, clock: Clock
) -> None:
    new = Signer("key-2")
    auth.signers.append(new)
    clock.now += 5.1
    assert await user_of(authenticator, new.token()) == "alice"
    assert auth.num_asked == 2


async def test_a_key_that_was_taken_away_is_forgotten_in_time_though_no_token_names_another(
    authenticator: Authenticator, auth: Auth, signer: Signer, clock: Clock
) -> None:
    auth.signers = [Signer("key-2")]
    clock.now += 301
    assert await user_of(authenticator, signer.token()) == "alice"  # it asks for the keys meanwhile
    for _ in range(10):
        await asyncio.sleep(0)
    await assert_refused(authenticator, signer.token())


async def test_known_keys_go_on_being_good_while_the_auth_service_is_away(
    authenticator: Authenticator, auth: Auth, signer: Signer, clock: Clock
) -> None:
    auth.is_away = True
    clock.now += 301
    for _ in range(10):
        assert await user_of(authenticator, signer.token()) == "alice"
        await asyncio.sleep(0)
    assert auth.num_asked == 2


async def test_a_key_that_was_taken_away_is_forgotten(
    authenticator: Authenticator, auth: Auth, signer: Signer, clock: Clock
) -> None:
    auth.signers = [Signer("key-2")]
    clock.now += 5.1
    await assert_refused(authenticator, Signer("key-3").token())
    await assert_refused(authenticator, signer.token())


async def test_unknown_keys_are_asked_for_at_most_every_second(authenticator: Authenticator, auth: Auth) -> None:
    """`auth` was asked once before."""
    started = time.monotonic()
    for num_asked in (2, 3):
        tokens = [Signer(f"junk-{number}").token() for number in range(100)]
        await asyncio.gather(*(assert_refused(authenticator, token) for token in tokens))
        assert auth.num_asked == num_asked
    assert time.monotonic() - started > 1.5


async def test_a_key_that_is_younger_than_the_last_fetch_is_waited_for(
    authenticator: Authenticator, auth: Auth
) -> None:
    new = Signer("key-2")
    auth.signers.append(new)
    assert await user_of(authenticator, new.token()) == "alice"


async def test_unknown_keys_at_once_are_asked_for_once(authenticator: Authenticator, auth: Auth, clock: Clock) -> None:
    new = Signer("key-2")
    auth.signers.append(new)
    clock.now += 5.1
    identities = await asyncio.gather(*(authenticator.identify(new.token()) for _ in range(50)))
    assert set(identities) == {Identity("alice", "session-1")}
    assert auth.num_asked == 2


async def test_a_request_that_goes_away_does_not_end_the_fetch_of_others(
    authenticator: Authenticator, auth: Auth, clock: Clock
) -> None:
    new = Signer("key-2")
    auth.signers.append(new)
    clock.now += 5.1
    first, second = (asyncio.ensure_future(authenticator.identify(new.token())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).user == "alice"
    assert first.cancelled()


async def test_a_token_of_an_unknown_key_is_not_called_invalid_while_the_auth_service_is_away(
    authenticator: Authenticator, auth: Auth, signer: Signer, clock: Clock
) -> None:
    """Its client would throw it away."""
    clock.now += 5.1
    auth.is_away = True
    new = Signer("key-2")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await authenticator.identify(new.token())
    assert await user_of(authenticator, signer.token()) == "alice"
    auth.is_away = False
    auth.signers.append(new)
    assert await user_of(authenticator, new.token()) == "alice"
