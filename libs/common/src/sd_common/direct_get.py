"""Many messages of a stream in one request: the batched direct get of JetStream (ADR-31), which any replica answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from sd_common.errors import Unavailable
from sd_common.nats_client import NatsClient

#: Left alone, the server sends up to its `max_pending` at once, and then may end the connection as too slow.
_MAX_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Batch:
    """Messages with the headers `Nats-Subject` and `Nats-Sequence`, and how many more there are."""

    messages: list[Msg]
    num_left: int


async def get_batch(client: NatsClient, stream: str, request: Mapping[str, Any], timeout_s: float) -> Batch:
    """Ask for messages, and gather the answers up to the status that ends them. A batch may end early, by its bytes.

    Raises nats-py's `TimeoutError` where an answer takes longer than `timeout_s` or is missing in the middle, its
    `NoRespondersError`, and `Unavailable` where the server refuses.
    """
    replies: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=replies.put)
    try:
        payload = json.dumps({"max_bytes": _MAX_BATCH_BYTES, **request}).encode()
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", payload, reply=inbox)
        messages: list[Msg] = []
        last_sequence = "0"
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    reply = await replies.get()
            except TimeoutError as error:
                raise nats.errors.TimeoutError from error
            headers = reply.headers or {}
            # Each answer names the one before it: some are lost where the connection was in between.
            if headers.get("Nats-Last-Sequence", last_sequence) != last_sequence:
                raise nats.errors.TimeoutError
            match headers.get("Status"):
                case None:
                    messages.append(reply)
                    last_sequence = headers["Nats-Sequence"]
                case "204":
                    return Batch(messages, int(headers["Nats-Num-Pending"]))
                case "404":
                    return Batch(messages, 0)
                case "503":
                    raise nats.errors.NoRespondersError
                case status:
                    raise Unavailable(f"The task log ({status} {headers.get('Description', '')})")
    finally:
        await subscription.unsubscribe()
