"""Carry a call to JetStream through a server restart or a leader change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats.errors
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

from sd_common.errors import StoreFull, Unavailable
from sd_common.full_stores import is_store_full

#: A leader change of three replicas took 6.7 s; a publisher that gives up sooner loses submissions.
RETRY_FOR_S = 12.0
_FIRST_PAUSE_S = 0.05
_MAX_PAUSE_S = 1.0
#: What the leader of several replicas says of an append on a condition, while another one on the same subject is not
#: stored yet by most of them: it cannot say which sequence will be the last
#: (`JSStreamWrongLastSequenceConstantErrCode`).
_APPEND_UNDER_WAY = 10164
#: What it says where more appends than it takes wait for the other replicas (`JSStreamTooManyRequests`).
_TOO_MANY_APPENDS = 10167
_PART = "The message broker"
_AWAY = (
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.OutboundBufferLimitError,
    NoStreamResponseError,
    ServiceUnavailableError,
)

T = TypeVar("T")


async def retried_while_away(
    call: Callable[[], Awaitable[T]], retry_for_s: float = RETRY_FOR_S, *, waits_while_full: bool = False
) -> T:
    """What `call` returns, tried again while NATS does not answer, or cannot yet; `Unavailable` after `retry_for_s`.
    `StoreFull` at once, or after that time where it `waits_while_full`.

    `call` must be safe to repeat: one that timed out may still have been carried out.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + retry_for_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except (*_AWAY, APIError) as error:
            # Some of nats-py's own lack the code.
            err_code = getattr(error, "err_code", None)
            is_full = is_store_full(err_code, getattr(error, "description", None))
            if not (is_full or isinstance(error, _AWAY) or err_code in (_APPEND_UNDER_WAY, _TOO_MANY_APPENDS)):
                raise
            is_over = loop.time() + pause_s > deadline
            if is_full and (is_over or not waits_while_full):
                raise StoreFull(_PART) from error
            if is_over:
                raise Unavailable(_PART) from error
        except nats.errors.ConnectionClosedError as error:
            raise Unavailable(_PART) from error
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)
