"""The long form: `make chaos`. Prints its figures; exits with 1 where a promise was broken."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.fleet import Fleet, running_fleet
from chaos.report import print_broken_promises, print_outcome
from chaos.run import Outcome, run_chaos
from chaos.takeovers import measure_takeovers_s
from chaos.verdict import broken_promises_of_load, broken_promises_of_takeovers
from support.stack import make_model_dir

_DEFAULT_SECONDS = 600.0
#: Workers killed one after the other once all else is at peace.
_NUM_TAKEOVERS = 6


async def _run(fleet: Fleet, seed: int, seconds: float) -> tuple[Outcome, list[float]]:
    outcome = await run_chaos(fleet, seed, seconds, lives_on=fleet.names_of("gateway")[0])
    return outcome, await measure_takeovers_s(fleet, _NUM_TAKEOVERS)


def main() -> int:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    seconds = float(os.environ.get("CHAOS_SECONDS") or _DEFAULT_SECONDS)
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:g}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="sd-chaos-"))
    with running_fleet(directory, make_model_dir(directory / "models")) as fleet:
        outcome, takeovers_s = asyncio.run(_run(fleet, seed, seconds))
    print_outcome(outcome)
    print(f"\nTakeover after SIGKILL of a worker, nothing else disturbed: at most {max(takeovers_s):.2f} s")
    broken_promises = [
        *outcome.broken_promises,
        *broken_promises_of_load(len(outcome.findings.accepted), seconds),
        *broken_promises_of_takeovers(takeovers_s),
    ]
    print_broken_promises(broken_promises)
    if broken_promises:
        print(f"The logs of all processes are below {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
