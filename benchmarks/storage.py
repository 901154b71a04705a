"""What tasks take on the disks of NATS and of the S3 server.

One copy; a cluster with `NATS_REPLICAS=3` has three. Prints bytes a task.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from table import print_table

from sd_common.nats_client import NatsClient, connect
from sd_common.streams import EVENTS, IDEMPOTENCY_KEYS_BUCKET, JOBS, stream_of_bucket
from support import servers
from support.client import Client
from support.deployment import Deployment, path_of_picture

_TASK = {"prompt": "a big red star on a white background", "model": "shapes", "steps": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers.nats_server() as nats, servers.s3_server() as s3:
        directory = Path(name)
        shutil.copytree("models/shapes", directory / "models" / "shapes")
        deployment = Deployment(directory / "services", nats, s3.minio_settings("storage"), directory / "models")
        try:
            rows = asyncio.run(measure(deployment, arguments.tasks))
        finally:
            deployment.stop()
    print_table(["", "bytes"], rows)


async def measure(deployment: Deployment, num_tasks: int) -> list[list[str]]:
    deployment.provision()
    deployment.start_auth()
    deployment.start_gateway()
    nats = await connect(servers.nats_settings_of(deployment.nats), "benchmark")
    async with Client(deployment.gateway_url()) as client:
        await client.until_ready()
        await client.take_public_token()
        task_ids = []
        for number in range(num_tasks):
            answer = await client.post("/task", json=_TASK, headers={"Idempotency-Key": f"storage-{number}"})
            task_ids.append(str(answer.json))
        waiting = await bytes_of(nats, JOBS)
        deployment.start_worker("one", {"MAX_ROWS": ""})
        for task_id in task_ids:
            event = await client.ended(task_id)
        picture = await client.get(path_of_picture(event))
        events, keys = await bytes_of(nats, EVENTS), await bytes_of(nats, stream_of_bucket(IDEMPOTENCY_KEYS_BUCKET))
    await nats.shut()
    return [
        ["a queued task in JOBS", f"{waiting / num_tasks:,.0f}"],
        ["a finished task in EVENTS", f"{events / num_tasks:,.0f}"],
        ["an Idempotency-Key", f"{keys / num_tasks:,.0f}"],
        ["a picture of the bundled model, 192 × 192", f"{len(picture.body):,}"],
        ["a picture without any pattern (noise), 512 × 512", f"{len(noise(512)):,}"],
        ["a picture without any pattern (noise), 1024 × 1024", f"{len(noise(1024)):,}"],
    ]


async def bytes_of(nats: NatsClient, stream: str) -> int:
    return (await nats.jetstream().stream_info(stream)).state.bytes


def noise(side: int) -> bytes:
    """The largest PNG that a picture of this size can be."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side)).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
