"""The long form: `make fuzz`. All tests with random input, in rounds, each with many examples from its own seed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

from support.fuzzing import LONG

_DEFAULT_SECONDS = 600.0
#: Of one test.
_TIMEOUT_S = 3600


def main() -> int:
    seed = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(1_000_000))
    seconds = float(os.environ.get("FUZZ_SECONDS") or _DEFAULT_SECONDS)
    started = time.monotonic()
    num_rounds = 0
    while num_rounds == 0 or time.monotonic() - started < seconds:
        print(f"Round {num_rounds + 1}: FUZZ_SEED={seed}", flush=True)
        if not _run_round(seed):
            print(f"Failed. The same again: make fuzz FUZZ_SEED={seed} FUZZ_SECONDS=0")
            return 1
        seed += 1
        num_rounds += 1
    print(f"{num_rounds} rounds in {time.monotonic() - started:.0f} s, and nothing found")
    return 0


def _run_round(seed: int) -> bool:
    """Whether all tests passed. The marker is the one that hypothesis gives its tests."""
    options = [
        "-m",
        "hypothesis",
        f"--hypothesis-profile={LONG}",
        f"--hypothesis-seed={seed}",
        f"--timeout={_TIMEOUT_S}",
    ]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *options, *sys.argv[1:]]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
