"""Whatever is read as a message: it is one, and says the same when it is written again, or `ValidationError` tells why
not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from sd_common.announcements import WorkerAnnouncement
from sd_common.auth_messages import RevokedToken
from sd_common.backlog import Backlog, HeldModels
from sd_common.events import ProgressEvent, StoredEvent
from sd_common.jobs import Job
from support.messages import changed_json, json_values

_GOLDEN = Path(__file__).parents[2] / "contract" / "golden"
_READERS: dict[str, Any] = {
    "announcement": WorkerAnnouncement,
    "backlog": Backlog,
    "event": StoredEvent,
    "held": HeldModels,
    "job": Job,
    "progress": ProgressEvent,
    "revoked": RevokedToken,
}
_MESSAGES = sorted(_GOLDEN.glob("*.json"))


def _reader_of(golden: Path) -> TypeAdapter[BaseModel]:
    name = golden.stem.removeprefix("event_") if "progress" in golden.stem else golden.stem
    return TypeAdapter(_READERS[name.split("_")[0]])


def _is_read_or_refused(adapter: TypeAdapter[BaseModel], data: bytes) -> None:
    try:
        message = adapter.validate_json(data)
    except ValidationError:
        return
    assert adapter.validate_json(message.model_dump_json()) == message


@given(st.sampled_from(_MESSAGES), st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(golden: Path, data: bytes) -> None:
    _is_read_or_refused(_reader_of(golden), data)


@given(st.sampled_from(_MESSAGES), json_values)
def test_any_json_is_read_or_refused(golden: Path, value: Any) -> None:
    _is_read_or_refused(_reader_of(golden), json.dumps(value).encode())


@pytest.mark.parametrize("golden", _MESSAGES, ids=lambda golden: golden.stem)
@given(data=st.data())
def test_a_changed_message_is_read_or_refused(golden: Path, data: st.DataObject) -> None:
    _is_read_or_refused(_reader_of(golden), data.draw(changed_json(json.loads(golden.read_text()))))
