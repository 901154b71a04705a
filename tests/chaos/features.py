"""What the service under test offers, by its own OpenAPI document: promises that it does not make are not checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chaos.balanced_client import BalancedClient


@dataclass(frozen=True)
class Features:
    """What clients can build on."""

    #: `/events?since=`: no event of a session is missed or told twice, however often its client reconnects.
    resumes: bool
    #: `Idempotency-Key`: a submission that is tried again is one task.
    takes_keys: bool


async def features_of(client: BalancedClient) -> Features:
    """Ask a gateway."""
    answer = await client.request("GET", "/openapi.json")
    assert answer is not None
    paths = answer.json["paths"]
    return Features(
        resumes=_has_parameter(paths["/events"]["get"], "since"),
        takes_keys=_has_parameter(paths["/task"]["post"], "Idempotency-Key"),
    )


def _has_parameter(operation: dict[str, Any], name: str) -> bool:
    return any(parameter["name"] == name for parameter in operation.get("parameters", ()))
