"""What is done to the fleet, and when: drawn from a seed, so that a run can be repeated."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chaos.fleet import FAR_WORKER, Fleet
from chaos.parts import PartKind, pause, resume
from support.deployment import ACK_WAIT_S

#: SIGKILL and a new start; SIGSTOP and SIGCONT; SIGTERM and a new start; the network cut and healed.
Deed = Literal["killed", "stopped", "restarted", "cut off"]

#: Workers take seconds of CPU to start: they are stopped more often than ended.
_WEIGHTS: dict[tuple[PartKind, Deed], float] = {
    ("worker", "killed"): 2,
    ("worker", "stopped"): 3,
    ("worker", "restarted"): 1,
    ("worker", "cut off"): 1.5,
    ("gateway", "killed"): 2,
    ("gateway", "stopped"): 2,
    ("gateway", "restarted"): 2,
    ("auth", "killed"): 0.7,
    ("auth", "stopped"): 0.7,
    ("auth", "restarted"): 0.7,
    ("nats-server", "killed"): 1.5,
    ("nats-server", "stopped"): 1.5,
    ("nats-server", "restarted"): 1,
    ("S3 server", "killed"): 1.5,
    ("S3 server", "stopped"): 1,
    ("S3 server", "restarted"): 0.7,
}
#: Seconds for which a part is away: now a blink, now longer than ack_wait.
_AWAY_S = (0.0, 0.5, 1.5, ACK_WAIT_S + 2.0)
#: Mean seconds from one disturbance to the next. They overlap: nothing waits for the end of the one before.
_MEAN_GAP_S = 2.5
#: Seconds that a part which is back is left alone.
_RECOVERY_S = 3.0


@dataclass(frozen=True)
class Disturbance:
    """One deed to one part."""

    at_s: float
    part: str
    kind: PartKind
    deed: Deed
    away_s: float


@dataclass(frozen=True)
class Happened:
    """A disturbance that took place, by the wall clock."""

    disturbance: Disturbance
    at_s: float


def plan(
    seed: int,
    seconds: float,
    parts: Sequence[tuple[str, PartKind]],
    *,
    can_be_cut_off: str | None,
    lives_on: str | None = None,
) -> list[Disturbance]:
    """What is to be done in a run, by its time. The part that `lives_on` is stopped and never ended."""
    rng = random.Random(seed)
    planned: list[Disturbance] = []
    at_s = 0.5
    while at_s < seconds:
        kind, deed = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        away_s = rng.choice(_AWAY_S)
        names = [name for name, its_kind in parts if its_kind == kind and (deed != "cut off" or name == can_be_cut_off)]
        if deed in ("killed", "restarted"):
            names = [name for name in names if name != lives_on]
        if names:
            planned.append(Disturbance(at_s, rng.choice(names), kind, deed, away_s))
        at_s += rng.expovariate(1 / _MEAN_GAP_S)
    return planned


class Disturber:
    """Does to the fleet what was planned."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        #: From when on each part may be disturbed again. It may take longer to come back than the plan had allowed it.
        self._free_at = dict.fromkeys(fleet.parts, 0.0)
        self.happened: list[Happened] = []

    async def carry_out(self, planned: Sequence[Disturbance], seconds: float) -> None:
        """Returns after `seconds`, when everything is back. Nothing is done to a part that is not back yet."""
        started_at = time.monotonic()
        suffering: set[asyncio.Task[None]] = set()
        for disturbance in planned:
            await asyncio.sleep(max(0.0, started_at + disturbance.at_s - time.monotonic()))
            suffering.add(asyncio.create_task(self._disturb_where_free(disturbance)))
        await asyncio.sleep(max(0.0, started_at + seconds - time.monotonic()))
        await asyncio.gather(*suffering)

    async def _disturb_where_free(self, disturbance: Disturbance) -> None:
        if time.monotonic() < self._free_at[disturbance.part]:
            return
        self._free_at[disturbance.part] = float("inf")
        await self._disturb(disturbance)
        self._free_at[disturbance.part] = time.monotonic() + _RECOVERY_S

    async def _disturb(self, disturbance: Disturbance) -> None:
        self.happened.append(Happened(disturbance, time.time()))
        part = self._fleet.parts[disturbance.part]
        match disturbance.deed:
            case "killed":
                await self._fleet.do(part.kill)
                await asyncio.sleep(disturbance.away_s)
                await self._fleet.do(part.start)
            case "stopped":
                pause(part)
                await asyncio.sleep(disturbance.away_s)
                resume(part)
            case "restarted":
                await self._fleet.replace(part)
            case "cut off":
                assert self._fleet.other_host is not None
                await self._fleet.do(self._fleet.other_host.unplug)
                await asyncio.sleep(disturbance.away_s)
                await self._fleet.do(self._fleet.other_host.plug_in)


def plan_for(fleet: Fleet, seed: int, seconds: float, lives_on: str | None) -> list[Disturbance]:
    """A plan for the parts of this fleet."""
    parts = [(part.name, part.kind) for part in fleet.parts.values()]
    can_be_cut_off = FAR_WORKER if fleet.other_host is not None else None
    return plan(seed, seconds, parts, can_be_cut_off=can_be_cut_off, lives_on=lives_on)
