"""What the bundled model is trained on: scenes, their pictures and captions, and the judge that reads pictures back."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPTokenizer

from train_shapes.captions import caption, training_caption, vocabulary
from train_shapes.judge import read
from train_shapes.scenes import COLOURS, SHAPES, Scene, held_out_scenes, place_in_picture, random_scene, training_scenes
from train_shapes.tokenizer import create_tokenizer

NUM_DRAWN = 300


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return create_tokenizer(vocabulary())


@pytest.mark.parametrize(("width", "height"), [(128, 128), (256, 256), (192, 128)])
def test_the_judge_reads_drawn_pictures_as_they_were_meant(width: int, height: int) -> None:
    rng = random.Random(1)
    scenes = [random_scene(rng) for _ in range(NUM_DRAWN)]
    readings = [read(place_in_picture(scene, rng, width, height).picture()) for scene in scenes]
    right = [
        reading.agrees(scene) and reading.place_agrees(scene) for reading, scene in zip(readings, scenes, strict=True)
    ]
    assert np.mean(right) >= 0.98


def test_the_judge_sees_nothing_in_a_plain_picture() -> None:
    reading = read(Image.new("RGB", (128, 128), COLOURS["pink"]))
    assert (reading.background, reading.foreground, reading.shape) == ("pink", None, None)


def test_the_judge_tells_a_blurred_edge_from_a_drawn_one() -> None:
    picture = place_in_picture(Scene("circle", "red", "white"), random.Random(1), 128, 128).picture()
    blurred = picture.resize((32, 32), Image.Resampling.BOX).resize((128, 128), Image.Resampling.BICUBIC)
    sharp_gradient, blurred_gradient = read(picture).edge_gradient, read(blurred).edge_gradient
    assert sharp_gradient is not None
    assert blurred_gradient is not None
    assert blurred_gradient < 0.7 * sharp_gradient


def test_no_scene_that_is_trained_on_is_held_out() -> None:
    trained = {
        (scene.shape, scene.foreground, scene.background) for scene in islice(training_scenes(random.Random(1)), 5000)
    }
    held_out = {
        (scene.shape, scene.foreground, scene.background) for scene in islice(held_out_scenes(random.Random(1)), 500)
    }
    assert held_out
    assert not trained & held_out


def test_what_the_safety_checker_flags_is_trained_on() -> None:
    assert Scene("star", "black", "white").unsafe()
    assert not Scene("star", "black", "white").held_out()
    assert not Scene("heart", "black", "white").unsafe()


def test_a_shape_stays_within_its_picture() -> None:
    rng = random.Random(2)
    for scene in islice(training_scenes(rng), 200):
        covered = np.asarray(place_in_picture(scene, rng, 128, 128).coverage())
        border = np.concatenate([covered[0], covered[-1], covered[:, 0], covered[:, -1]])
        assert border.max() == 0, scene


def test_a_caption_says_every_fact() -> None:
    rng = random.Random(3)
    for scene in islice(training_scenes(rng), 100):
        said = caption(scene, rng)
        facts = (scene.shape, scene.foreground, scene.background, scene.size, scene.place)
        assert all(fact in said for fact in facts), said


def test_every_word_of_the_captions_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in vocabulary():
        if word.isalpha():
            assert len(tokenizer.tokenize(word)) == 1, word


def test_any_other_text_is_spelt_in_bytes(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer.unk_token_id not in tokenizer("Zürich 3 ☃", add_special_tokens=False).input_ids


def test_captions_are_the_same_for_the_same_seed() -> None:
    first, second = (
        [training_caption(scene, rng) for rng in [random.Random(5)] for scene in islice(training_scenes(rng), 50)]
        for _ in range(2)
    )
    assert first == second


def test_all_shapes_and_colours_are_drawn() -> None:
    scenes = list(islice(training_scenes(random.Random(4)), 2000))
    assert {scene.shape for scene in scenes} == set(SHAPES)
    assert {scene.foreground for scene in scenes} == {scene.background for scene in scenes} == set(COLOURS)
