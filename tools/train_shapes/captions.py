"""What is said of a scene: captions that training mixes and the evaluation asks with."""

from __future__ import annotations

import random

from train_shapes.scenes import COLOURS, PLACES, RADII, SHAPES, Scene

#: Said of the size now and then instead of the plain word.
SIZE_SYNONYMS = {"small": ("small", "tiny", "little"), "big": ("big", "large", "huge")}
MIDDLES = ("in the middle", "in the center")
OPENINGS = ("a photo of", "a picture of", "an image of", "a drawing of", "a painting of")
#: What prompts often end with; it means nothing here, and the model is to learn so.
CLOSINGS = (
    "high quality",
    "highly detailed",
    "masterpiece",
    "digital art",
    "simple",
    "minimal",
    "flat design",
    "vector art",
    "4k",
    "8k",
    "hd",
    "beautiful",
)


def caption(scene: Scene, rng: random.Random) -> str:
    """A complete caption: every fact of the scene is said."""
    first = _noun_phrase(scene)
    place = f" {scene.place}" if scene.place else ""
    background = f"{_with_article(scene.background)} background"
    draw = rng.random()
    if draw < 0.6:
        return f"{_with_article(first)}{place} on {background}"
    if draw < 0.75:
        return f"{first}{place}, {scene.background} background"
    if draw < 0.9:
        return f"{first}{place} on {scene.background}"
    return f"{background} with {_with_article(first)}{place}"


def training_caption(scene: Scene, rng: random.Random) -> str:
    """A caption to train with: mostly complete; some leave facts out, or say what means nothing."""
    if rng.random() < 0.1:
        return _partial_caption(scene, rng)
    if scene.size and rng.random() < 0.15:
        synonym = rng.choice(SIZE_SYNONYMS[scene.size])
        said = caption(scene, rng).replace(scene.size, synonym, 1)
    else:
        said = caption(scene, rng)
    if not scene.place and rng.random() < 0.1:
        said = said.replace(scene.shape, f"{scene.shape} {rng.choice(MIDDLES)}", 1)
    if "gray" in said and rng.random() < 0.2:
        said = said.replace("gray", "grey")
    draw = rng.random()
    if draw < 0.1:
        said = f"{rng.choice(OPENINGS)} {said}"
    elif draw < 0.2:
        said = f"{said}, {', '.join(rng.sample(CLOSINGS, rng.randint(1, 2)))}"
    elif draw < 0.25:
        said = f"{said}, {_unknown_words(rng)}"
    return said


def vocabulary() -> list[str]:
    """Every word of the captions, in a fixed order."""
    phrases = [
        *COLOURS,
        *SHAPES,
        *RADII,
        *PLACES,
        *(word for words in SIZE_SYNONYMS.values() for word in words),
        *MIDDLES,
        *OPENINGS,
        *CLOSINGS,
        "grey background with a an and of the shape",
    ]
    return list(dict.fromkeys(" ".join(phrases).split()))


def _noun_phrase(scene: Scene) -> str:
    return " ".join(word for word in (scene.size, scene.foreground, scene.shape) if word)


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _partial_caption(scene: Scene, rng: random.Random) -> str:
    partial = rng.choice(
        (
            f"{scene.foreground} {scene.shape}",
            _noun_phrase(scene),
            scene.shape,
            f"{scene.shape} on {_with_article(scene.background)} background",
            f"{scene.shape} {scene.place}".strip(),
        )
    )
    return rng.choice((_with_article(partial), partial, f"{_with_article(scene.background)} background"))


def _unknown_words(rng: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(rng.randint(1, 3)))
