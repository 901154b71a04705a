"""Every subject with its message, who sends it and who receives it, as data. `sd_common.asyncapi` describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from sd_common import auth_messages as auth
from sd_common import subjects
from sd_common.announcements import WorkerAnnouncement
from sd_common.backlog import Backlog, HeldModels
from sd_common.events import ProgressEvent, StoredEvent
from sd_common.jobs import Job

_TASK = "{user}.{session}.{task_id}"


@dataclass(frozen=True)
class Channel:
    """A subject. An empty message has no type."""

    name: str
    address: str
    description: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    message: type[BaseModel] | Any | None = None
    reply: type[BaseModel] | None = None
    #: What is described. "validation" where a serializer of ours says nothing of what it writes.
    mode: JsonSchemaMode = "serialization"


CHANNELS = (
    Channel(
        "jobs",
        "jobs.{model_key}",
        "Asks a worker to run a task. Stored in JOBS, once for each `Nats-Msg-Id`.",
        ("gateway", "publisher"),
        ("worker",),
        Job,
        mode="validation",
    ),
    Channel(
        "jobs_of_lane",
        "jobs.{model_key}.{lane}",
        "The same, for a task of a user who waits for few others. Workers take from the lanes in turn.",
        ("gateway",),
        ("worker",),
        Job,
        mode="validation",
    ),
    Channel(
        "events",
        f"events.{_TASK}",
        "A step in a task's life. Stored in EVENTS, by compare-and-set.",
        ("gateway", "worker", "publisher"),
        (),
        StoredEvent,
    ),
    Channel(
        "feed",
        f"feed.{_TASK}",
        "An event once it is stored, republished by the server with the header `Nats-Sequence`.",
        (),
        ("gateway", "publisher"),
        StoredEvent,
    ),
    Channel(
        "progress",
        f"progress.{_TASK}",
        "How far a task is. Not stored.",
        ("worker",),
        ("gateway", "publisher"),
        ProgressEvent,
    ),
    Channel(
        "cancels",
        "cancels.{task_id}",
        "Drop this task, which is aborted. Not stored.",
        ("gateway", "publisher"),
        ("worker",),
    ),
    Channel(
        "workers",
        "workers.{worker_key}",
        "The models that a worker has at hand, every 10 s and whenever they change. Not stored.",
        ("worker",),
        ("gateway",),
        WorkerAnnouncement,
    ),
    Channel(
        "backlog",
        subjects.BACKLOG,
        "What waits, told by the worker that asked the server: three or four times a second while one is idle, else "
        "every 5 to 7 s. Not stored.",
        ("worker",),
        ("worker", "gateway"),
        Backlog,
    ),
    Channel(
        "held_models",
        subjects.HELD_MODELS,
        "The models that a worker holds, whenever they change, and so that each is named every 5 s. Not stored.",
        ("worker",),
        ("worker",),
        HeldModels,
    ),
    Channel("roll_call", subjects.ROLL_CALL, "Asks all workers to announce themselves now.", ("gateway",), ("worker",)),
    Channel("sign_up", auth.SIGN_UP, "A new user.", ("gateway",), ("auth",), auth.SignUpRequest, auth.User),
    Channel("log_in", auth.LOG_IN, "A token for a user.", ("gateway",), ("auth",), auth.LogInRequest, auth.AccessToken),
    Channel("public_token", auth.PUBLIC_TOKEN, "A public token.", ("gateway",), ("auth",), None, auth.AccessToken),
    Channel("link_token", auth.LINK_TOKEN, "A token for a link.", ("gateway",), ("auth",), None, auth.AccessToken),
    Channel(
        "revoke",
        auth.REVOKE,
        "Accept a token no more.",
        ("gateway",),
        ("auth",),
        auth.RevokeRequest,
        auth.RevokedToken,
    ),
    Channel(
        "revoked_tokens",
        "revoked_tokens.{token_id}",
        "A token that was revoked, republished by the server once it is stored in the bucket `revoked_tokens`.",
        (),
        ("gateway",),
        auth.RevokedToken,
    ),
    Channel("jwks", auth.JWKS, "Keys to verify tokens with.", ("gateway",), ("auth",), None, auth.PublicKeys),
)
