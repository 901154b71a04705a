"""How many tasks a second one gateway process accepts: `POST /task` from a bounded number of connections.

No worker runs, so the figure is that of the gateway and NATS. The load comes from another process on the same machine,
and costs a share of it. Goal: 800 a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
import urllib.request
from urllib.parse import urlsplit

from stack import embedded_stack
from table import print_table

_BODY = json.dumps({"prompt": "a big red star on a white background", "params_type": "txt2img"}).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=8000)
    parser.add_argument("--connections", type=int, default=32)
    arguments = parser.parse_args()
    env = {"WORKERS": "0", "ENABLE_PUBLIC_ACCESS": "1", "JOBS_MAX_PER_MODEL": "1000000"}
    with embedded_stack(env) as stack:
        request = urllib.request.Request(f"{stack.base_url}/token/all", method="POST")
        with urllib.request.urlopen(request) as response:
            token = json.load(response)["access_token"]
        asyncio.run(submit_all(stack.base_url, token, 500, arguments.connections))  # warm up
        latencies_ms, took_s = asyncio.run(submit_all(stack.base_url, token, arguments.tasks, arguments.connections))
    rows = [
        ["accepted per second (goal 800)", f"{len(latencies_ms) / took_s:.0f}"],
        ["latency p50, ms", f"{statistics.median(latencies_ms):.1f}"],
        ["latency p99, ms", f"{statistics.quantiles(latencies_ms, n=100)[-1]:.1f}"],
    ]
    print_table([f"POST /task, {arguments.connections} connections", ""], rows)


async def submit_all(base_url: str, token: str, tasks: int, connections: int) -> tuple[list[float], float]:
    """The latency of each accepted submission in milliseconds, and the seconds that all took."""
    target = urlsplit(base_url)
    head = (
        f"POST /task HTTP/1.1\r\nHost: {target.netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    )
    message = head.encode() + _BODY
    remaining = iter(range(tasks))
    latencies_ms: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        for _ in remaining:
            started = time.perf_counter()
            writer.write(message)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            latencies_ms.append(1000 * (time.perf_counter() - started))
        writer.close()
        await writer.wait_closed()

    started = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    return latencies_ms, time.perf_counter() - started


if __name__ == "__main__":
    main()
