"""Errors become problems."""

from __future__ import annotations

import pytest

from sd_common.errors import SubjectError
from sd_gateway import errors
from sd_gateway.errors import FieldError, GatewayError
from sd_gateway.http.problems import problem_of

_ERRORS: list[GatewayError] = [
    errors.NotAuthenticated("x"),
    errors.OriginNotAllowed("x"),
    errors.EmbeddingNotAllowed(),
    errors.TooManyRequests("x"),
    errors.Overloaded("x"),
    errors.AccountRefused(409, "x"),
    errors.TooManyUnfinishedTasks(1),
    errors.IdempotencyKeyReused(),
    errors.TaskNotFound("x"),
    errors.TaskWithoutEvent("x"),
    errors.UnsupportedBody("x"),
    errors.MalformedBody("x"),
    errors.BodyTooLarge("x"),
    errors.InvalidInput([FieldError("x", "x")]),
]


def test_every_error_of_the_gateway_has_a_status_of_its_own_choice() -> None:
    assert {type(error) for error in _ERRORS} == set(GatewayError.__subclasses__())
    for error in _ERRORS:
        assert problem_of(error) is not None, type(error)


@pytest.mark.parametrize("error", [SubjectError("x"), GatewayError("x")])
def test_an_error_that_nobody_has_thought_of_is_told_as_a_defect(error: Exception) -> None:
    assert problem_of(error) is None
