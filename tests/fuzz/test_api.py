"""Requests that schemathesis makes from the committed OpenAPI document, to the running service."""

from __future__ import annotations

from urllib.parse import urlsplit

import requests
import schemathesis
from schemathesis.checks import CHECKS

from fuzz.document import load_document
from support.fuzzing import num_examples

schema = load_document()
schema_at_random = load_document(coverage=False)

#: What a valid request asks for may be beyond the operator's limits, or not be there: that is no part of the document.
#: Public access is on: tokens are no condition.
_NOT_CHECKED = [CHECKS.get_one(name) for name in ("positive_data_acceptance", "ignored_auth")]


@schema.parametrize()
@num_examples(15)
def test_every_answer_is_as_documented_with_a_token(case: schemathesis.Case, gateway_url: str, token: str) -> None:
    authorization = {"Authorization": f"Bearer {token}"}
    answer = case.call_and_validate(gateway_url, headers=authorization, excluded_checks=_NOT_CHECKED)
    location = answer.headers.get("location")
    if location is not None:
        there = requests.get(gateway_url + urlsplit(location[0]).path, headers=authorization, timeout=60)
        assert there.status_code == 200


@schema_at_random.parametrize()
@num_examples(10)
def test_every_answer_is_as_documented_without_one(case: schemathesis.Case, gateway_url: str) -> None:
    case.call_and_validate(gateway_url, excluded_checks=_NOT_CHECKED)
