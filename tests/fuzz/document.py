"""The committed OpenAPI document, and answers held against it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import requests
import schemathesis
from hypothesis import core
from hypothesis.vendor import pretty
from schemathesis.generation import hypothesis as changes_of_hypothesis
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

_COMMITTED = Path(__file__).parents[2] / "openapi.yml"

#: What an answer is held against, whatever the request was.
ANSWER_CHECKS: list[schemathesis.CheckFunction] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]

# What it changes in hypothesis takes the values out of failed examples, in all tests of the process.
changes_of_hypothesis.setup()
core.RepresentationPrinter = pretty.RepresentationPrinter  # type: ignore[attr-defined]


def load_document() -> OpenApiSchema:
    return schemathesis.openapi.from_path(_COMMITTED)


def documented_operations(document: OpenApiSchema) -> Iterator[tuple[str, str]]:
    """Every method and path."""
    for path, item in document.raw_schema["paths"].items():
        for method in item:
            yield method.upper(), path


def documented_statuses(document: OpenApiSchema) -> Iterator[tuple[str, str, int]]:
    """Every method, path and status."""
    for method, path in documented_operations(document):
        for status in document.raw_schema["paths"][path][method.lower()]["responses"]:
            yield method, path, int(status)


def check_answer(document: OpenApiSchema, method: str, path: str, answer: requests.Response) -> None:
    """Raise where the answer is not as documented."""
    names = dict.fromkeys(re.findall(r"{(\w+)}", path), "x")
    document[path][method].Case(path_parameters=names).validate_response(answer, checks=ANSWER_CHECKS)
