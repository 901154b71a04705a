"""The OpenAPI document: committed as it is generated, valid, and of the very routes that are served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from openapi_spec_validator import validate

from sd_gateway.http.openapi import create_document
from sd_gateway.http.operations import add_operations
from sd_gateway.http.problems import CONTENT_TYPE
from sd_gateway.http.routes import OPERATIONS
from sd_gateway.http.service import STATIC, add_documents

_COMMITTED = Path(__file__).parents[2] / "openapi.yml"
_METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_document()


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in _METHODS
            yield method.upper(), path, operation


def test_the_committed_document_is_the_generated_one(document: dict[str, Any]) -> None:
    committed = yaml.safe_load(_COMMITTED.read_text(encoding="utf-8"))
    assert committed == document, "openapi.yml is stale: run `make openapi`, and commit what it writes"


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_route_is_in_the_document_and_the_other_way_round(document: dict[str, Any]) -> None:
    app = web.Application()
    add_operations(app, OPERATIONS)
    add_documents(app, document)
    routes = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and not route.resource.canonical.startswith("/static/")
    }
    documented = {(method, path) for method, path, _ in _operations(document)}
    assert {route for route in routes if route[0] != "HEAD"} == documented
    # RFC 9110 §9.1. What a GET makes, or keeps open, has no head.
    heads = {path for method, path in routes if method == "HEAD"}
    gets = {path for method, path in documented if method == "GET"}
    assert gets - heads == {"/txt2img", "/img2img", "/inpaint", "/events"}
    assert heads <= gets


def test_every_path_parameter_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        described = {entry["name"] for entry in operation.get("parameters", ()) if entry["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", path)), (method, path)


def test_every_operation_has_a_name_of_its_own_and_a_summary(document: dict[str, Any]) -> None:
    operations = [operation for _, _, operation in _operations(document)]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)


def test_every_problem_is_of_the_one_form(document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and path != "/readyz":
                content = response["content"]
                assert content == {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}, (method, path)


def test_every_operation_tells_its_problems(document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        statuses = {int(status) for status in operation["responses"]}
        assert any(status < 400 for status in statuses), (method, path)
        expected = {403}  # a page of another origin
        if operation["tags"] not in (["service"], ["events"]):
            expected.add(503)  # every part that answers may be away
        if {"bearer": []} in operation.get("security", []) and path != "/events":  # which tells it by its close
            expected.add(401)
        if path.startswith("/task/"):
            expected.add(404)
        body = operation.get("requestBody")
        if body is not None:
            # Not the type that is asked for, not readable, too large, and wrong.
            expected |= {400, 413, 415, 422}
        elif path != "/events" and any(entry["in"] == "query" for entry in operation.get("parameters", ())):
            expected.add(422)
        assert statuses >= expected, (method, path, expected - statuses)


def test_submissions_may_meet_a_full_queue(document: dict[str, Any]) -> None:
    for method, path in (("get", "/txt2img"), ("get", "/img2img"), ("get", "/inpaint"), ("post", "/task")):
        assert "429" in document["paths"][path][method]["responses"]


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_the_query_of_a_picture_is_that_of_its_task(kind: str, document: dict[str, Any]) -> None:
    parameters = {entry["name"]: entry for entry in document["paths"][f"/{kind}"]["get"]["parameters"]}
    [schema] = [
        schema
        for schema in document["components"]["schemas"].values()
        if schema.get("properties", {}).get("params_type", {}).get("const") == kind
    ]
    assert set(parameters) == set(schema["properties"])
    assert {name for name, entry in parameters.items() if entry["required"]} == set(schema["required"])
    assert all(entry["schema"].get("type") != "null" for entry in parameters.values())


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    text = yaml.safe_dump(document)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(components)


# The page that shows the document

_OTHER_HOST = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)


def test_the_page_loads_only_files_that_are_there() -> None:
    page = (STATIC / "docs.html").read_text(encoding="utf-8")
    references = re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?([^"'\s>]+)""", page)
    assert len(references) >= 4
    for reference in references:
        assert not _OTHER_HOST.match(reference), reference
        assert (STATIC / reference.removeprefix("/static/")).is_file(), reference


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    """The content security policy would block it."""
    page = (STATIC / "docs.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", page) == []
    assert re.findall(r"\bon\w+\s*=", page) == []


def test_the_scripts_of_the_page_ask_no_other_host() -> None:
    script = (STATIC / "docs.js").read_text(encoding="utf-8")
    assert "//" not in re.sub(r"^\s*//.*$", "", script, flags=re.MULTILINE)
    assert re.findall(r"\burl:\s*\"([^\"]+)\"", script) == ["/openapi.json"]
    # Swagger UI sends the document to validator.swagger.io where that is not switched off.
    assert re.search(r"validatorUrl:\s*null", script)


def test_the_styles_of_the_page_load_nothing_from_another_host() -> None:
    for sheet in STATIC.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        for reference in re.findall(r"url\(\s*[\"']?([^\"')\s]+)", text) + re.findall(
            r"@import\s+[\"']([^\"']+)", text
        ):
            assert reference.startswith(("data:", "#")), (sheet.name, reference[:80])


def test_there_are_no_other_files_that_the_page_could_load() -> None:
    names = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert names == {
        "docs.html",
        "docs.js",
        "page.css",
        "swagger-ui/LICENSE",
        "swagger-ui/NOTICE",
        "swagger-ui/favicon-32x32.png",
        "swagger-ui/swagger-ui-bundle.js",
        "swagger-ui/swagger-ui.css",
    }
