"""The bundled model as anyone would use it, without this project."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoPipelineForText2Image

from train_shapes.judge import read
from train_shapes.scenes import Scene

MODEL = Path(__file__).parents[3] / "models" / "shapes"


def test_it_loads_without_options_and_draws_what_it_is_asked_for() -> None:
    pipeline = AutoPipelineForText2Image.from_pretrained(MODEL, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline("a big red circle on a white background", num_inference_steps=20, guidance_scale=5.0)
    assert output.images[0].size == (128, 128)
    assert read(output.images[0]).colours_agree(Scene("circle", "red", "white"))
    assert output.nsfw_content_detected == [False]


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= 15e6
