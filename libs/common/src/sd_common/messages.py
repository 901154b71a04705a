"""What all messages share: JSON, version 1, fields that a reader does not know are ignored."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sd_common.blob_ids import BLOB_ID_PATTERN
from sd_common.subjects import TOKEN_PATTERN

#: A user, session or task name: one subject token.
Token = Annotated[str, Field(pattern=TOKEN_PATTERN)]
BlobId = Annotated[str, Field(pattern=f"^{BLOB_ID_PATTERN}$")]
Timestamp = AwareDatetime


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Message(BaseModel):
    """Base of every message on NATS."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    v: Literal[1] = Field(default=1, description="Version of the message format.")
