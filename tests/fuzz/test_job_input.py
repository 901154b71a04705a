"""Bytes on a queue that are no job, and queues that are of no model: they are taken off it, and the next task runs."""

from __future__ import annotations

import asyncio
import contextlib

import requests
from hypothesis import given
from hypothesis import strategies as st

from sd_common.errors import SubjectError
from sd_common.jobs import Job
from sd_common.nats_client import NatsClient, connect
from sd_common.parameters import Txt2ImgParameters
from sd_common.streams import JOBS
from sd_common.subjects import JOBS_OF_ALL_LANES, jobs_of, parse_jobs_subject
from support.deployment import Deployment
from support.fuzzing import num_examples
from support.jobs import STRAY_SUBJECTS
from support.messages import changed_json
from support.servers import nats_settings_of
from support.waiting import once

_JOB = Job(
    task_id="fuzzed",
    user="service",
    session="fuzz",
    blob_id="a" * 24,
    parameters=Txt2ImgParameters(prompt="x", model="tiny", steps=1, width=64, height=64),
)
_jobs = st.one_of(st.binary(max_size=100), changed_json(_JOB.model_dump(mode="json")))

#: What stands behind `jobs.` in what a publisher may publish to: one token of any characters but those that end it.
_tokens = st.text(
    st.characters(exclude_categories=["Cs", "Z"], exclude_characters=". \t\r\n\0"), min_size=1, max_size=70
)
_subjects = st.one_of(st.just(jobs_of("tiny")), st.sampled_from(STRAY_SUBJECTS), st.builds("jobs.{}".format, _tokens))


@num_examples(10)
@given(jobs=st.lists(st.tuples(_subjects, _jobs), min_size=5, max_size=10))
def test_any_bytes_are_taken_off_the_queue_and_the_next_task_runs(
    jobs: list[tuple[str, bytes]], deployment: Deployment, gateway_url: str, token: str
) -> None:
    async def publish() -> None:
        client = await connect(nats_settings_of(deployment.nats), "test")
        try:
            for subject, job in jobs:
                await client.jetstream().publish(subject, job)
            await once(lambda: _num_of_lanes(client), lambda num: num == 0)
        finally:
            await client.shut()

    asyncio.run(publish())
    query = {"prompt": "x", "steps": "1", "width": "64", "height": "64"}
    headers = {"Authorization": f"Bearer {token}"}
    assert requests.get(f"{gateway_url}/txt2img", params=query, headers=headers, timeout=60).status_code == 200


async def _num_of_lanes(client: NatsClient) -> int:
    """Jobs that workers can be given. The gateway takes the others away within a minute."""
    info = await client.jetstream().stream_info(JOBS, subjects_filter=JOBS_OF_ALL_LANES)
    num_jobs = 0
    for subject, num in (info.state.subjects or {}).items():
        with contextlib.suppress(SubjectError):
            parse_jobs_subject(subject)
            num_jobs += num
    return num_jobs
