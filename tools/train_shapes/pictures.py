"""Pictures as the networks see them: tensors of [-1, 1]."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from train_shapes.scenes import Drawing, Scene, place_in_picture


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """An RGB picture as float32 (3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def draw_batch(
    scenes: Iterator[Scene], rng: random.Random, num_pictures: int, width: int, height: int
) -> tuple[list[Drawing], torch.Tensor]:
    """The next scenes, drawn: (num_pictures, 3, height, width)."""
    drawings = [place_in_picture(next(scenes), rng, width, height) for _ in range(num_pictures)]
    return drawings, torch.stack([to_tensor(drawing.picture()) for drawing in drawings])
