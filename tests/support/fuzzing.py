"""How much random input tests try: a little in `make test`, the same every time; more of it in `make fuzz`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

#: Of `make test`. Nothing is random from run to run, and a loaded machine fails no test.
SHORT = "short"
#: Of `make fuzz`, which gives a seed of its own to every round.
LONG = "long"
_LONG_FACTOR = 10

settings.register_profile(SHORT, derandomize=True, deadline=None)
settings.register_profile(
    LONG,
    max_examples=_LONG_FACTOR * settings.get_profile("default").max_examples,
    deadline=None,
    database=None,  # a round is what its seed says
    print_blob=True,
)

#: Over the network examples take long, and share the servers that fixtures start.
_HEALTH_CHECKS = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large)


def num_examples(short: int) -> settings:
    """So many examples in `make test`, and as many times more in `make fuzz` as of all others."""
    factor = _LONG_FACTOR if settings().max_examples == settings.get_profile(LONG).max_examples else 1
    return settings(max_examples=short * factor, suppress_health_check=_HEALTH_CHECKS)
