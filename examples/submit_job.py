"""A publisher: submits a job straight to NATS, without a gateway, and follows it to its picture.

make run                                     # in another terminal
set -a; . data/publisher.env; set +a         # NATS_URL, with the user name and password of a publisher
.venv/bin/python examples/submit_job.py "a big red star on a white background"
"""

from __future__ import annotations

import asyncio
import sys

from sd_common.errors import ContractError
from sd_common.events import AbortedEvent, FinishedEvent, ProgressEvent
from sd_common.job_client import JobClient
from sd_common.nats_client import connect
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Txt2ImgParameters
from sd_common.settings import load_settings

_CONNECT_WITHIN_S = 5.0


async def make_picture(prompt: str) -> None:
    try:
        async with asyncio.timeout(_CONNECT_WITHIN_S):  # else it waits for a server that is yet to start
            client = await connect(load_settings(NatsSettings), "submit-job-example")
    except TimeoutError:
        sys.exit("NATS does not let this in: is `make run` running, and NATS_URL the one in data/publisher.env?")
    try:
        jobs = JobClient(client)
        task = await jobs.submit(Txt2ImgParameters(prompt=prompt, model="shapes"))
        print("task", task.task_id)
        async for event in jobs.follow(task, progress=True):
            match event:
                case ProgressEvent():
                    print(event.stage, event.step, "of", event.steps)
                case FinishedEvent():
                    print("picture", event.result.blob_url)
                case AbortedEvent():
                    sys.exit(f"aborted ({event.code}): {event.reason}")
                case _:
                    print(event.event_type)
    except (ContractError, ValueError) as error:
        sys.exit(str(error))
    finally:
        await client.shut()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(make_picture(sys.argv[1]))
