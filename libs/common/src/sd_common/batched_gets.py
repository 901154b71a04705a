"""Read a stream by batched direct gets (ADR-31 of NATS): many messages for one request, without a consumer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from sd_common.errors import Unavailable
from sd_common.nats_client import REQUEST_TIMEOUT_S, NatsClient
from sd_common.retries import retried_while_away

_BATCH = 500
#: Left alone, the server sends up to its `max_pending` at once, and then may end the connection as too slow.
_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class StoredMessage:
    """A message as it stands in its stream."""

    subject: str
    sequence: int
    data: bytes


@dataclass(frozen=True)
class Batch:
    """The answer to one request, and how many messages that match are left behind it."""

    messages: list[StoredMessage]
    num_left: int


async def read_stream(client: NatsClient, stream: str, subject_filter: str, since: int) -> AsyncIterator[StoredMessage]:
    """All messages whose subject matches, with a sequence of at least `since`, in order. Ends at the last one.

    Raises `Unavailable` where NATS does not answer.
    """
    while True:
        request = {
            "batch": _BATCH,
            "max_bytes": _BATCH_BYTES,
            "seq": max(since, 1),
            "next_by_subj": subject_filter,
        }
        batch = await get_batch(client, stream, request)
        for message in batch.messages:
            yield message
        if not batch.messages or batch.num_left == 0:
            return
        since = batch.messages[-1].sequence + 1


async def get_batch(client: NatsClient, stream: str, request: dict[str, Any]) -> Batch:
    """What answers one request. A batch may end early, by its bytes. Raises as `read_stream`."""
    return await retried_while_away(partial(_get_batch, client, stream, json.dumps(request).encode()))


async def _get_batch(client: NatsClient, stream: str, request: bytes) -> Batch:
    """Many messages, then a status that ends them and tells how many are left."""
    replies: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=replies.put)
    try:
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", request, reply=inbox)
        messages: list[StoredMessage] = []
        while True:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    reply = await replies.get()
            except TimeoutError as error:
                raise nats.errors.TimeoutError from error
            headers = reply.headers or {}
            match headers.get("Status"):
                case None:
                    messages.append(StoredMessage(headers["Nats-Subject"], int(headers["Nats-Sequence"]), reply.data))
                case "204":
                    return Batch(messages, int(headers["Nats-Num-Pending"]))
                case "404":
                    return Batch(messages, 0)
                case "503":
                    raise nats.errors.NoRespondersError
                case status:
                    raise Unavailable(f"The stream {stream} ({status} {headers.get('Description', '')})")
    finally:
        await subscription.unsubscribe()
