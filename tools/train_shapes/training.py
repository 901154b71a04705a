"""The loop that every network here is trained with: cosine learning rate, averaged weights, checkpoints.

A step's random numbers depend on the seed and the step's number alone, so a run that was stopped and goes on from a
checkpoint takes the same steps as one that was not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

#: `loss(step, rng)`: the loss of one step; `rng` decides its data, torch's own generator its noise.
Loss = Callable[[int, random.Random], torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    name: str
    seed: int
    num_steps: int
    learning_rate: float
    #: Steps in which the learning rate would come to its end; None: `num_steps`.
    cosine_steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-3
    warmup_steps: int = 100
    ema_decay: float = 0.999
    checkpoint_every_s: float = 120.0


class Training:
    """Trains networks together, and keeps a moving average of their weights, which is what is used in the end."""

    def __init__(self, plan: Plan, networks: dict[str, torch.nn.Module], work_dir: Path) -> None:
        self._plan = plan
        self._networks = torch.nn.ModuleDict(networks)
        self._parameters = list(self._networks.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay
        )
        self._checkpoint = work_dir / f"{plan.name}.checkpoint.pt"
        self._next_step = 0

    def run(self, loss: Loss) -> None:
        """Trains to the plan's end, from the last checkpoint where there is one, and leaves the averaged weights."""
        self._resume()
        self._networks.train()
        saved_at = time.monotonic()
        mean_loss = None
        with tqdm(total=self._plan.num_steps, initial=self._next_step, desc=self._plan.name, mininterval=10) as bar:
            for step in range(self._next_step, self._plan.num_steps):
                value = self._step(step, loss)
                mean_loss = value if mean_loss is None else 0.98 * mean_loss + 0.02 * value
                self._next_step = step + 1
                bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
                bar.update()
                if time.monotonic() - saved_at > self._plan.checkpoint_every_s:
                    self._save()
                    saved_at = time.monotonic()
        self._save()
        self._copy(self._averages, self._parameters)
        self._networks.eval()

    def _step(self, step: int, loss: Loss) -> float:
        torch.manual_seed(self._plan.seed * 1_000_003 + step)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        value = loss(step, random.Random(f"{self._plan.seed} {step}"))
        self._optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        # A short memory at first: the average would drag the random first weights along.
        decay = min(self._plan.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)
        return value.item()

    def _learning_rate(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / self._plan.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * step / (self._plan.cosine_steps or self._plan.num_steps)))
        return self._plan.learning_rate * warmup * (0.98 * cosine + 0.02)

    def _save(self) -> None:
        state = {
            "next_step": self._next_step,
            "networks": self._networks.state_dict(),
            "averages": self._averages,
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        device = self._parameters[0].device
        state = torch.load(self._checkpoint, map_location=device, weights_only=True)
        self._networks.load_state_dict(state["networks"])
        self._averages = state["averages"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._next_step = state["next_step"]

    @staticmethod
    def _copy(source: list[torch.Tensor], target: list[torch.nn.Parameter]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(target, source)
