"""Every service is replaced under load, one process after another."""

from __future__ import annotations

import pytest

from chaos.disturbances import Happened
from chaos.fleet import Fleet
from chaos.load import Load
from chaos.parts import ServicePart
from chaos.run import run_under_load


@pytest.mark.timeout(600)
async def test_a_rolling_restart_fails_no_request_that_did_not_start_on_the_dying_gateway(fleet: Fleet) -> None:
    """Nothing is lost or doubled either, and every process ends with exit code 0."""
    services = [part for part in fleet.parts.values() if isinstance(part, ServicePart)]

    async def replace_all(_: Load) -> list[Happened]:
        for service in services:
            await fleet.replace(service)
        return []

    outcome = await run_under_load(fleet, 0, replace_all, num_clients=2)
    assert [broken for broken in outcome.load.client.unanswered if not broken.was_leaving] == []
    assert not outcome.broken_promises
    assert len(outcome.findings.accepted) > len(services)
    assert {service.name: service.exit_codes[-1] for service in services} == {service.name: 0 for service in services}
