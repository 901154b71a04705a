"""Requests that schemathesis makes from the committed OpenAPI document, to the running service."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from fuzz.conftest import PICTURE
from fuzz.document import documented_operations, load_document
from support.fuzzing import num_examples

_DOCUMENT = load_document()
_OPERATIONS = {f"{method} {path}": _DOCUMENT[path][method] for method, path in documented_operations(_DOCUMENT)}
_of_each_operation = pytest.mark.parametrize("label", list(_OPERATIONS))

#: What a valid request asks for may be beyond the operator's limits, or not be there: that is no part of the document.
#: Public access is on: tokens are no condition.
_NOT_CHECKED: list[schemathesis.CheckFunction] = [checks.positive_data_acceptance, checks.ignored_auth]


def _made_possible(case: Case[Any]) -> Case[Any]:
    """What fits the schema and names nothing that is there gives way to what does: else every request ends at it."""
    for fields in (case.query, case.body):
        if not isinstance(fields, dict):
            continue
        for name in ("cursor", "model"):
            if isinstance(fields.get(name), str):
                del fields[name]
        for name in ("initial_image", "mask"):
            if isinstance(fields.get(name), str):
                fields[name] = PICTURE
    return case


def _ask(case: Case[Any], gateway_url: str, token: str | None) -> None:
    """Raise where the answer is not as documented, or is a failure; or what it names as its `Location` is not there."""
    headers = {"Authorization": f"Bearer {token}"} if token else None
    answer = case.call_and_validate(gateway_url, headers=headers, excluded_checks=_NOT_CHECKED, allow_redirects=False)
    if location := answer.headers.get("location"):
        path = urlsplit(urljoin(answer.request.url or "", location[0])).path  # at the address that clients have
        there = requests.get(gateway_url + path, headers=headers, timeout=60)
        assert there.status_code == 200


@_of_each_operation
@num_examples(20)
@given(data=st.data(), has_token=st.sampled_from([True, True, False]))
def test_every_answer_is_as_documented(
    label: str, data: st.DataObject, has_token: bool, gateway_url: str, token: str
) -> None:
    mode = data.draw(st.sampled_from(GenerationMode))
    case = data.draw(_OPERATIONS[label].as_strategy(mode))
    if data.draw(st.booleans()):
        case = _made_possible(case)
    _ask(case, gateway_url, token if has_token else None)


@_of_each_operation
def test_every_answer_at_the_bounds_of_each_field_is_as_documented(label: str, gateway_url: str, token: str) -> None:
    operation = _OPERATIONS[label]
    cases = _DOCUMENT.iter_coverage_cases(
        operation,
        generation_modes=list(GenerationMode),
        generation_config=_DOCUMENT.config.generation_for(operation=operation, phase="coverage"),
    )
    for case in cases:
        # A picture for each bound would take most of the time.
        _ask(case if case.path in ("/img2img", "/inpaint") else _made_possible(case), gateway_url, token)
