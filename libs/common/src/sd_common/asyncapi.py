"""The AsyncAPI 3.0 document of what goes over NATS: `python -m sd_common.asyncapi > asyncapi.yml`.

Made of `sd_common.channels` and the models.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

import yaml
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from sd_common.channels import CHANNELS, Channel

Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"
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
            "version": version("sd-common"),
            "description": "Messages are JSON, version 1. Readers ignore fields that they do not know. "
            "Headers carry W3C trace context. Errors of `auth.*` are told in `Nats-Service-Error-Code` and "
            "`Nats-Service-Error` (ADR-32 of NATS). `publisher` is any program that submits tasks without a gateway, "
            "as `sd_common.job_client` does; `{user}` is then its user name at NATS. What is stored is read by the API "
            "of JetStream, `$JS.API.>`, which is not described here.",
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
