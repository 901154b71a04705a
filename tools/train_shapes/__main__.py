"""`python -m train_shapes`: trains, exports and measures the bundled model. See README.md beside this file."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from train_shapes.diffusion import train_diffusion
from train_shapes.evaluation import evaluate, settings_of
from train_shapes.export import export
from train_shapes.safety_checker import train_safety_checker
from train_shapes.samples import make_samples
from train_shapes.vae import train_vae

REPOSITORY = Path(__file__).parents[2]
BUNDLED_MODEL = REPOSITORY / "models" / "shapes"


@dataclass(frozen=True)
class Effort:
    """How much of everything a run takes."""

    vae_crop_steps: int
    vae_whole_steps: int
    diffusion_steps: tuple[int, int, int, int]
    diffusion_pictures: int
    checker_steps: int
    checker_pictures: int


#: What made the committed weights.
FULL = Effort(
    vae_crop_steps=12_000,
    vae_whole_steps=2_500,
    diffusion_steps=(5_055, 4_118, 2_500, 1_400),
    diffusion_pictures=20_000,
    checker_steps=2_000,
    checker_pictures=5_000,
)
#: Enough to see every part run: the pictures are noise.
SMOKE = Effort(
    vae_crop_steps=4,
    vae_whole_steps=2,
    diffusion_steps=(2, 2, 2, 2),
    diffusion_pictures=64,
    checker_steps=3,
    checker_pictures=32,
)


def main() -> None:
    """Reads the command line and does what it says."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.command == "train" and arguments.smoke and arguments.model == BUNDLED_MODEL:
        parser.error("--smoke makes a model that is of no use: give --model another directory")
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    if arguments.command == "train":
        _train(arguments.work_dir, device, SMOKE if arguments.smoke else FULL, arguments.seed)
        export(arguments.work_dir, arguments.model)
    elif arguments.command == "evaluate":
        evaluate(arguments.model, device, num_prompts=arguments.prompts, settings=settings_of(arguments.model))
    else:
        make_samples(arguments.model, arguments.images)


def _train(work_dir: Path, device: torch.device, effort: Effort, seed: int) -> None:
    """Every part in its order; a part that is already in `work_dir` is not trained again."""
    work_dir.mkdir(parents=True, exist_ok=True)
    if not (work_dir / "vae").exists():
        train_vae(
            work_dir,
            device,
            num_crop_steps=effort.vae_crop_steps,
            num_whole_steps=effort.vae_whole_steps,
            seed=seed,
        )
    if not (work_dir / "safety_checker").exists():
        train_safety_checker(
            work_dir, device, num_steps=effort.checker_steps, num_pictures=effort.checker_pictures, seed=seed + 2
        )
    if not (work_dir / "unet").exists():
        train_diffusion(
            work_dir,
            device,
            num_steps=effort.diffusion_steps,
            num_pictures=effort.diffusion_pictures,
            seed=seed + 3,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train_shapes", description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="the model's directory")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch on the CPU")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train all parts, from where a stopped run left off, and export them")
    train.add_argument("--work-dir", type=Path, default=REPOSITORY / "build" / "train_shapes", help="checkpoints")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    evaluation = commands.add_parser("evaluate", help="print the tables of the model card")
    evaluation.add_argument("--prompts", type=int, default=256)
    samples = commands.add_parser("samples", help="draw the pages of samples")
    samples.add_argument("--images", type=Path, default=REPOSITORY / "docs" / "images")
    return parser


if __name__ == "__main__":
    main()
