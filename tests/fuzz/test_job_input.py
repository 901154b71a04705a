"""Bytes on a queue that are no job: the worker takes them off it, and goes on."""

from __future__ import annotations

import asyncio

import requests
from hypothesis import given
from hypothesis import strategies as st

from sd_common.jobs import Job
from sd_common.nats_client import connect
from sd_common.parameters import Txt2ImgParameters
from sd_common.subjects import jobs_of
from support.client import PATIENCE_S
from support.deployment import Deployment
from support.fuzzing import num_examples
from support.jobs import num_jobs
from support.messages import changed_json
from support.servers import nats_settings_of

_JOB = Job(
    task_id="fuzzed",
    user="service",
    session="fuzz",
    blob_id="a" * 24,
    parameters=Txt2ImgParameters(prompt="x", model="tiny", steps=1, width=64, height=64),
)
_jobs = st.one_of(st.binary(max_size=100), changed_json(_JOB.model_dump(mode="json")))


@num_examples(10)
@given(jobs=st.lists(_jobs, min_size=5, max_size=10))
def test_any_bytes_are_taken_off_the_queue_and_the_next_task_runs(
    jobs: list[bytes], deployment: Deployment, gateway_url: str, token: str
) -> None:
    async def publish() -> None:
        client = await connect(nats_settings_of(deployment.nats), "test")
        try:
            for job in jobs:
                await client.jetstream().publish(jobs_of("tiny"), job)
            async with asyncio.timeout(PATIENCE_S):
                while await num_jobs(client):  # noqa: ASYNC110 - nobody tells of acknowledgements
                    await asyncio.sleep(0.02)
        finally:
            await client.shut()

    asyncio.run(publish())
    query = {"prompt": "x", "steps": "1", "width": "64", "height": "64"}
    headers = {"Authorization": f"Bearer {token}"}
    assert requests.get(f"{gateway_url}/txt2img", params=query, headers=headers, timeout=60).status_code == 200
