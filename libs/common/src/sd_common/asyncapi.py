"""The AsyncAPI 3.0 document of what goes over NATS: `python -m sd_common.asyncapi > asyncapi.yml`.

Every subject, its message, and who sends and receives it, from the models.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from sd_common import auth_messages as auth
from sd_common import subjects
from sd_common.announcements import WorkerAnnouncement
from sd_common.backlog import Backlog, HeldModels
from sd_common.events import ProgressEvent, StoredEvent
from sd_common.jobs import Job

Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"
_TASK = "{user}.{session}.{task_id}"
_TOKEN = "1 to 64 letters, digits, `_` or `-`."  # noqa: S105 - of a subject
_PARAMETERS = {
    "model_key": "A readable slug of the model's name, a dash, and 8 hex digits of the name's SHA-256.",
    "lane": "`first` for a user's only unfinished task, `next` for a few more. That of others stands in no subject.",
    "user": _TOKEN,
    "session": _TOKEN,
    "task_id": _TOKEN,
    "token_id": _TOKEN,
    "worker_key": "A readable slug of the worker's name, a dash, and 8 hex digits of the name's SHA-256.",
}


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
        ("gateway", "internal_service"),
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
        ("gateway", "worker", "internal_service"),
        (),
        StoredEvent,
    ),
    Channel(
        "feed",
        f"feed.{_TASK}",
        "An event once it is stored, republished by the server with the header `Nats-Sequence`.",
        (),
        ("gateway", "internal_service"),
        StoredEvent,
    ),
    Channel(
        "progress",
        f"progress.{_TASK}",
        "How far a task is. Not stored.",
        ("worker",),
        ("gateway", "internal_service"),
        ProgressEvent,
    ),
    Channel(
        "cancels",
        "cancels.{task_id}",
        "Drop this task, which is aborted. Not stored.",
        ("gateway", "internal_service"),
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
        "What waits, told by the worker that asked the server, some four times a second. Not stored.",
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


def create_document() -> Schema:
    """The document."""
    schemas, components = _schemas()
    channels: dict[str, Schema] = {}
    operations: dict[str, Schema] = {}
    for channel in CHANNELS:
        channels[channel.name] = _channel(channel, schemas)
        for service in channel.senders:
            operations[f"{service}_sends_{channel.name}"] = _operation("send", channel)
        for service in channel.receivers:
            operations[f"{service}_receives_{channel.name}"] = _operation("receive", channel)
        if channel.reply is not None:
            channels[f"{channel.name}_reply"] = {
                "address": None,
                "messages": {"reply": {"payload": schemas[channel.name, "reply"]}},
            }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Stable Diffusion API over NATS",
            "version": "0.1.0",
            "description": "Messages are JSON, version 1. Readers ignore fields that they do not know. "
            "Headers carry W3C trace context. Errors of `auth.*` are told in `Nats-Service-Error-Code` and "
            "`Nats-Service-Error` (ADR-32 of NATS). `internal_service` is any that submits tasks without a gateway, as "
            "`sd_common.job_client` does; `{user}` is then its user name at NATS. What is stored is read by the API of "
            "JetStream, `$JS.API.>`, which is not described here.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _schemas() -> tuple[dict[tuple[str, str], Schema], dict[str, Schema]]:
    inputs: list[tuple[tuple[str, str], JsonSchemaMode, TypeAdapter[Any]]] = []
    for channel in CHANNELS:
        for role, model in (("message", channel.message), ("reply", channel.reply)):
            if model is not None:
                inputs.append(((channel.name, role), channel.mode, TypeAdapter(model)))
    elements, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    return {key: _adapted(schema) for (key, _), schema in elements.items()}, _adapted(definitions.get("$defs", {}))


def _adapted(schema: Any) -> Any:
    """As AsyncAPI has it: a discriminator is the name of a property, where OpenAPI has an object."""
    if isinstance(schema, list):
        return [_adapted(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    adapted = {name: _adapted(value) for name, value in schema.items()}
    if isinstance(adapted.get("discriminator"), dict):
        adapted["discriminator"] = adapted["discriminator"]["propertyName"]
    return adapted


def _channel(channel: Channel, schemas: dict[tuple[str, str], Schema]) -> Schema:
    message = {"payload": schemas[channel.name, "message"]} if channel.message is not None else {"summary": "Empty."}
    described: Schema = {
        "address": channel.address,
        "description": channel.description,
        "messages": {"message": message},
    }
    parameters = {name: {"description": text} for name, text in _PARAMETERS.items() if f"{{{name}}}" in channel.address}
    if parameters:
        described["parameters"] = parameters
    return described


def _operation(action: str, channel: Channel) -> Schema:
    operation: Schema = {"action": action, "channel": {"$ref": f"#/channels/{channel.name}"}}
    if channel.reply is not None:
        operation["reply"] = {
            "address": {"location": "$message.header#/reply"},
            "channel": {"$ref": f"#/channels/{channel.name}_reply"},
        }
    return operation


if __name__ == "__main__":
    yaml.safe_dump(create_document(), sys.stdout, sort_keys=False, allow_unicode=True, width=120)
