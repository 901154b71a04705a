"""The training of the bundled model: it goes on where it was stopped, and every part of it runs."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoPipelineForText2Image

from train_shapes.__main__ import main
from train_shapes.diffusion import exaggerated
from train_shapes.training import Plan, Training

PLAN = Plan("plan", seed=1, num_steps=20, learning_rate=0.05, warmup_steps=2, checkpoint_every_s=0)


class Stopped(Exception):
    """As if the process were killed."""


def weights_after(plan: Plan, work_dir: Path, stop_before: int | None = None) -> torch.Tensor:
    """Fits a line to noisy data; raises `Stopped` before step `stop_before`."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)

    def loss(step: int, rng: random.Random) -> torch.Tensor:
        if step == stop_before:
            raise Stopped
        inputs = torch.randn(8, 3) + rng.random()
        return (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    Training(plan, {"network": network}, work_dir).run(loss)
    return network.weight.detach().clone()


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = weights_after(PLAN, tmp_path / "whole")
    with pytest.raises(Stopped):
        weights_after(PLAN, tmp_path / "stopped", stop_before=11)
    assert torch.equal(weights_after(PLAN, tmp_path / "stopped"), whole)


def test_training_learns(tmp_path: Path) -> None:
    weights = weights_after(replace(PLAN, num_steps=600, checkpoint_every_s=60), tmp_path)
    assert torch.allclose(weights, torch.ones(1, 3), atol=0.05)


def test_exaggeration_adds_contrast_where_there_is_noise_and_none_where_there_is_none() -> None:
    torch.manual_seed(0)
    latents = torch.randn(64, 4, 8, 8)
    assert torch.equal(exaggerated(latents, torch.zeros(64, 1, 1, 1)), latents)
    shown = exaggerated(latents, torch.ones(64, 1, 1, 1))
    changed = (shown != latents).flatten(1).any(1)
    assert 0 < changed.sum() < 64
    assert (shown[changed].std((1, 2, 3)) > latents[changed].std((1, 2, 3))).all()


def test_a_few_steps_of_every_part_give_a_model_that_diffusers_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    arguments = ["--model", model, "train", "--smoke", "--work-dir", tmp_path / "work"]
    monkeypatch.setattr(sys, "argv", ["train_shapes", *map(str, ["--device", "cpu", "--threads", 1, *arguments])])
    main()
    assert (model / "default_parameters.json").is_file()
    pipeline = AutoPipelineForText2Image.from_pretrained(model, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline("a red circle", width=128, height=136, num_inference_steps=1, output_type="np")
    assert output.images.shape == (1, 136, 128, 3)
    assert len(output.nsfw_content_detected) == 1
