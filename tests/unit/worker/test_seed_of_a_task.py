"""The seed of a task that names none."""

from __future__ import annotations

from sd_worker.run_task import seed_of


def test_a_retry_gets_the_same_seed_and_another_task_another() -> None:
    seeds = {seed_of(f"task-{number}") for number in range(1000)}
    assert seed_of("task-1") == seed_of("task-1")
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)
