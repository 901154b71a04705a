"""Pipelines that meet: how many tasks share one forward pass while each runs diffusers' own pipeline.

A pipeline is an ordinary function: it encodes the prompt, then calls its network once a step, then decodes. Run in the
ordinary way it holds its thread until it has a picture. Here each runs in a *greenlet*: a function call with a stack of
its own, which can be left in the middle and gone on with later, by the same thread. (It is what `yield` does for a
generator, but from any depth: the pipeline's code knows nothing of it.)

The pipeline's networks are proxies (`sharing`). When a pipeline calls one, the proxy *parks* the sample: it leaves the
greenlet, handing the arguments of the call to the engine. The engine lets every sample run until it is parked. It then
takes the parked calls that are alike, makes one call of them (`passes`), and goes on with each sample, giving it
its own rows of the result: for the pipeline, the network has returned. Samples of different users, kinds, steps,
guidance and schedulers so share a network step by step. A new one joins by being parked, and one that is cancelled
leaves: an error is raised in it at the very place where it is parked.

    engine            sample A                      sample B
    ------            --------                      --------
    start A ────────▶ encodes, calls unet(2 rows)
            ◀──────── parked
    start B ──────────────────────────────────────▶ encodes, calls unet(1 row)
            ◀────────────────────────────────────── parked
    unet(3 rows)
    resume A (2) ───▶ scheduler step, calls unet
            ◀──────── parked
    resume B (1) ─────────────────────────────────▶ scheduler step, calls unet
            …
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from greenlet import getcurrent, greenlet

Ended = TypeVar("Ended")


class Call(Protocol):
    """What a sample waits for."""

    def run(self) -> object:
        """Make the call alone, as the pipeline would have."""


@dataclass(frozen=True)
class Returned:
    """What became of a call: its result, or what it raised instead."""

    result: object = None
    error: BaseException | None = None


def park(call: Call) -> object:
    """Leave the running sample until the engine has the result of `call`. Raises what the engine resumes it with."""
    engine = getcurrent().parent
    if engine is None:
        raise RuntimeError("a shared network was called outside of a sample")
    return engine.switch(call)


class Rendezvous(Generic[Ended]):
    """A function that runs until it is parked, and goes on when it is resumed. For one thread alone."""

    def __init__(self, function: Callable[[], Ended]) -> None:
        self._greenlet = greenlet(function)
        #: What it waits for; None before it is started and after it has ended.
        self.parked: Call | None = None
        #: What the function returned, or raised; with the error's traceback, which keeps all that the function had in
        #: memory (see `errors.drop_tracebacks`).
        self.ended: Ended | None = None
        self.error: BaseException | None = None

    def start(self) -> None:
        """Run it until it is parked, or ends."""
        self._switch(self._greenlet.switch)

    def resume(self, returned: Returned) -> None:
        """Go on where it is parked, with the result of that call or by raising its error."""
        if (error := returned.error) is None:
            self._switch(lambda: self._greenlet.switch(returned.result))
        else:
            self._switch(lambda: self._greenlet.throw(type(error), error, error.__traceback__))

    def _switch(self, switch: Callable[[], object]) -> None:
        try:
            value = switch()
        except BaseException as error:  # the engine's thread outlives every sample
            self.parked, self.error = None, error
            return
        if self._greenlet.dead:
            self.parked, self.ended = None, value  # type: ignore[assignment]  # what the function returns
        else:
            self.parked = value  # type: ignore[assignment]  # `park` alone switches back
