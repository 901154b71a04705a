"""The OpenAPI 3.1 document, from the operations and the models: `python -m sd_gateway.http.openapi > openapi.yml`."""

from __future__ import annotations

import sys
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import yaml
from openapi_pydantic import OpenAPI
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from sd_gateway.http import problems
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.routes import OPERATIONS
from sd_gateway.http.uploads import BLOB_FIELD

Schema = dict[str, Any]
_Key = tuple[str, str]
_REF = "#/components/schemas/{model}"
_UPLOAD: Schema = {
    "type": "object",
    "required": [BLOB_FIELD],
    "properties": {BLOB_FIELD: {"type": "string", "format": "binary", "description": "The picture's file."}},
}
_TEXT: Schema = {"type": "string"}

_DESCRIPTION = """\
Txt2img, img2img and inpainting with diffusers models, on workers that take their tasks from NATS JetStream.

Submit with `POST /task` and follow with `GET /task/{task_id}` or the websocket `/events`; or try `GET /txt2img` in a
browser. Errors are `application/problem+json` (RFC 9457)."""


def create_document(operations: tuple[Operation, ...] = OPERATIONS) -> Schema:
    """The document, checked against the OpenAPI 3.1 model."""
    schemas, components = _schemas(operations)
    paths: dict[str, Schema] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation, schemas, components)
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Stable Diffusion API",
            "version": version("sd-gateway"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "oauth2",
                    "description": "A token of `POST /token` or `POST /token/all`, as `Authorization: Bearer`.",
                    "flows": {"password": {"tokenUrl": "/token", "scopes": {}}},
                },
                "query": {"type": "apiKey", "in": "query", "name": "token", "description": "The same token."},
            },
        },
    }
    OpenAPI.model_validate(document)
    return document


def _schemas(operations: tuple[Operation, ...]) -> tuple[dict[_Key, Schema], dict[str, Schema]]:
    """The schema of every input and answer, and the components that they refer to."""
    inputs: list[tuple[_Key, JsonSchemaMode, TypeAdapter[Any]]] = [
        (("", "problem"), "serialization", TypeAdapter(problems.Problem))
    ]
    for operation in operations:
        if operation.body is not None:
            inputs.append(((operation.operation_id, "body"), "validation", operation.body))
        if operation.query is not None:
            inputs.append(((operation.operation_id, "query"), "validation", operation.query))
        for name, header in operation.headers.items():
            inputs.append(((operation.operation_id, name), "validation", header))
        for status, answer in operation.answers.items():
            if answer.schema is not None:
                inputs.append(((operation.operation_id, str(status)), "serialization", answer.schema))
    elements, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    return {key: schema for (key, _), schema in elements.items()}, dict(definitions.get("$defs", {}))


def _describe(operation: Operation, schemas: dict[_Key, Schema], components: dict[str, Schema]) -> Schema:
    described: Schema = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "tags": [operation.tag],
    }
    if operation.description:
        described["description"] = operation.description
    if operation.password_in_query:
        described["deprecated"] = True
    if parameters := _parameters(operation, schemas, components):
        described["parameters"] = parameters
    if operation.body_kind == "multipart/form-data":
        described["requestBody"] = {"required": True, "content": {operation.body_kind: {"schema": _UPLOAD}}}
    elif operation.body is not None:
        schema = schemas[(operation.operation_id, "body")]
        described["requestBody"] = {"required": True, "content": {operation.body_kind: {"schema": schema}}}
    described["responses"] = _responses(operation, schemas)
    if operation.token is not None:
        described["security"] = [{"bearer": []}, {"query": []}]
    return described


def _parameters(operation: Operation, schemas: dict[_Key, Schema], components: dict[str, Schema]) -> list[Schema]:
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "description": text, "schema": _TEXT}
        for name, text in operation.path_parameters.items()
    ]
    if operation.password_in_query:
        parameters.append({"name": "password", "in": "query", "required": True, "schema": _TEXT})
    if operation.query is not None:
        schema = schemas[(operation.operation_id, "query")]
        schema = components[schema["$ref"].removeprefix(_REF.format(model=""))] if "$ref" in schema else schema
        for name, field in schema["properties"].items():
            parameters.append(_query_parameter(name, field, name in schema.get("required", ())))
    for name in operation.headers:
        header = dict(schemas[(operation.operation_id, name)])
        description = header.pop("description")
        parameters.append({"name": name, "in": "header", "description": description, "schema": header})
    return parameters


def _query_parameter(name: str, field: Schema, required: bool) -> Schema:
    """A query cannot carry null: what may be null is what may be left out."""
    field = dict(field)
    description = field.pop("description", None)
    choices = [choice for choice in field.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        del field["anyOf"]
        field.update(choices[0])
    if field.get("default", "") is None:
        del field["default"]
    parameter: Schema = {"name": name, "in": "query", "required": required, "schema": field}
    if description:
        parameter["description"] = description
    return parameter


def _responses(operation: Operation, schemas: dict[_Key, Schema]) -> Schema:
    responses = {
        str(status): _response(answer, schemas.get((operation.operation_id, str(status))))
        for status, answer in operation.answers.items()
    }
    statuses = {403, *operation.problems}  # pages of other origins are refused whatever they ask for
    if operation.token == "bearer":  # noqa: S105 - a way to pass tokens
        statuses |= {401, 429} if operation.counts_for_rate else {401}
    if operation.tag not in ("service", "events"):  # a websocket that is refused is told by its close
        statuses |= {503}
    problem = {problems.CONTENT_TYPE: {"schema": schemas[("", "problem")]}}
    for status in sorted(statuses):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": problem}
    return responses


def _response(answer: Answer, schema: Schema | None) -> Schema:
    response: Schema = {"description": answer.description}
    if answer.headers:
        response["headers"] = {name: {"description": text, "schema": _TEXT} for name, text in answer.headers.items()}
    if answer.content_types:
        response["content"] = {kind: {"schema": schema} if schema else {} for kind in answer.content_types}
    return response


if __name__ == "__main__":
    yaml.safe_dump(create_document(), sys.stdout, sort_keys=False, allow_unicode=True, width=120)
