"""Whatever a websocket client asks for and sends: it is told, or ignored, and the next one is served."""

from __future__ import annotations

import asyncio
import contextlib
import os

import aiohttp
from hypothesis import example, given
from hypothesis import strategies as st

from support.client import Client
from support.fuzzing import num_examples

_OPCODES = [
    aiohttp.WSMsgType.TEXT,
    aiohttp.WSMsgType.BINARY,
    aiohttp.WSMsgType.CONTINUATION,
    aiohttp.WSMsgType.PING,
    aiohttp.WSMsgType.PONG,
    aiohttp.WSMsgType.CLOSE,
]
#: The data is sent so many times over, so that some frames are larger than what is taken.
_frames = st.tuples(st.sampled_from(_OPCODES), st.binary(max_size=50), st.sampled_from([1, 1, 1, 1000]))
_TASK = {"prompt": "x", "steps": 1, "width": 64, "height": 64}


@num_examples(40)
@given(frames=st.lists(_frames, min_size=1, max_size=6), noise=st.binary(max_size=50))
def test_no_frames_at_all_keep_the_gateway_from_its_other_clients(
    frames: list[tuple[aiohttp.WSMsgType, bytes, int]], noise: bytes, gateway_url: str, token: str
) -> None:
    async def send() -> None:
        async with Client(gateway_url, token) as client, client.events() as bystander:
            async with client.events() as events:
                with contextlib.suppress(OSError):  # it was closed for what came before
                    for opcode, data, times in frames:
                        await events.socket.send_frame(data * times, opcode)
                    os.write(events.socket.get_extra_info("socket").fileno(), noise)
            task_id = await client.submit(**_TASK)
            await bystander.until(task_id, "pending")
            await client.delete(f"/task/{task_id}")

    asyncio.run(send())


@num_examples(60)
@given(
    query=st.dictionaries(
        st.sampled_from(["since", "progress", "token", "x"]),
        st.one_of(st.text(max_size=10), st.integers().map(str), st.sampled_from(["0", "1", "true", "9" * 5000])),
    )
)
@example(query={"since": str(2**64)})
@example(query={"since": str(2**63 - 1)})
@example(query={"since": "1e3"})
def test_any_query_opens_a_websocket_or_is_told_what_is_wrong(
    query: dict[str, str], gateway_url: str, token: str
) -> None:
    async def open_one() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{gateway_url}/events", params={"token": token, **query}) as socket,
        ):
            await socket.close()  # which is answered; but where it was refused, that close comes first
            assert socket.close_code in (aiohttp.WSCloseCode.OK, aiohttp.WSCloseCode.POLICY_VIOLATION)

    asyncio.run(open_one())
