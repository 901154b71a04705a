"""The short form of `make chaos`: everything dies at random, and no promise is broken."""

from __future__ import annotations

import os
import random

import pytest

from chaos.fleet import Fleet
from chaos.report import print_broken_promises, print_outcome
from chaos.run import run_chaos

_SECONDS = 12.0


@pytest.mark.timeout(600)
async def test_no_promise_is_broken_whatever_dies(fleet: Fleet) -> None:
    """To repeat a run that failed, set CHAOS_SEED to what it printed."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"CHAOS_SEED={seed}")
    outcome = await run_chaos(fleet, seed, _SECONDS)
    print_outcome(outcome)
    print_broken_promises(outcome.broken_promises)
    assert outcome.findings.accepted
    assert not outcome.broken_promises
