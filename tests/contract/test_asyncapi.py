"""`asyncapi.yml` is valid, up to date, and names the subjects that there are."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import yaml

from sd_common import auth_messages, streams, subjects
from sd_common.asyncapi import create_document
from sd_common.channels import CHANNELS
from sd_common.lanes import LANES
from sd_common.streams import StreamSettings
from sd_common.subjects import ModelLane, TaskRef

ROOT = Path(__file__).parents[2]
#: Of the package @asyncapi/specs 6.11.1, which is under the Apache License 2.0.
SCHEMA = Path(__file__).parent / "schemas" / "asyncapi-3.0.0.json"


def test_the_committed_document_is_the_generated_one() -> None:
    committed = yaml.safe_load((ROOT / "asyncapi.yml").read_text())
    assert committed == create_document(), "asyncapi.yml is stale: run `make asyncapi`, and commit what it writes"


def test_the_document_is_valid_asyncapi_3() -> None:
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(create_document())


def test_every_reference_leads_somewhere() -> None:
    document = create_document()

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [each for value in node.values() for each in references(value)]
        if isinstance(node, list):
            return [each for value in node for each in references(value)]
        return []

    found = references(document)
    assert found
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_subject_that_is_built_is_a_channel() -> None:
    ref = TaskRef("user", "session", "task_id")
    filled = {channel.address.replace("{", "").replace("}", "") for channel in CHANNELS}
    built = {ref.events, ref.progress, ref.cancels, f"feed.{ref.events.removeprefix('events.')}"}
    lanes = [ModelLane("model_key", lane) for lane in LANES]
    built |= {lane.jobs.replace(f".{lane.lane}", ".lane") for lane in lanes}
    built |= {subjects.WORKERS.replace("*", "worker_key"), subjects.ROLL_CALL, subjects.BACKLOG, subjects.HELD_MODELS}
    built |= {subjects.REVOKED_TOKENS.replace("*", "token_id")}
    asked = {value for name, value in vars(auth_messages).items() if name.isupper() and str(value).startswith("auth.")}
    assert filled == built | asked


def test_every_subject_of_a_stream_is_a_channel() -> None:
    settings = StreamSettings(_env_file=None)
    patterns = [*(streams.jobs_stream(settings).subjects or []), *(streams.events_stream(settings).subjects or [])]
    assert patterns == [*subjects.JOBS, subjects.EVENTS]
    prefixes = {channel.address.partition(".")[0] for channel in CHANNELS}
    assert {pattern.partition(".")[0] for pattern in patterns} <= prefixes


def test_a_publisher_may_do_what_it_has_rights_for_and_no_more() -> None:
    sent = {channel.address for channel in CHANNELS if "publisher" in channel.senders}
    received = {channel.address for channel in CHANNELS if "publisher" in channel.receivers}
    task = "{user}.{session}.{task_id}"
    assert sent == {"jobs.{model_key}", f"events.{task}", "cancels.{task_id}"}
    assert received == {f"feed.{task}", f"progress.{task}"}
