"""What the model can draw: one plain shape on a plain background, with captions that say so.

Everything is in parts of the picture's shorter side, so that a scene looks the same at every size.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (45, 80, 220),
    "yellow": (245, 215, 50),
    "orange": (245, 140, 30),
    "purple": (140, 60, 190),
    "pink": (250, 150, 190),
    "cyan": (60, 210, 220),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
    "gray": (130, 130, 130),
    "brown": (125, 75, 40),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "ring", "cross", "heart")
PLACES = ("", "on the left", "on the right", "at the top", "at the bottom")

#: Half the extent of a shape, in parts of the shorter side: least and most.
RADII = {"small": (0.15, 0.18), "": (0.23, 0.265), "big": (0.34, 0.385)}
#: How far from the middle a place is, in parts of its side; a big shape has less room.
PLACE_OFFSET = 0.2
BIG_PLACE_OFFSET = 0.09
#: How far a shape may be from where its place says, in parts of the shorter side.
PLACE_JITTER = 0.025
#: How far a colour may be from its name's, of 255.
COLOUR_JITTER = 10
#: Edges are drawn this many times larger and averaged down.
SUPERSAMPLING = 4

#: One in so many combinations of shape and two colours is never trained on: the evaluation asks for these.
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Scene:
    """What one picture shows. `size` is "small", "big" or "" (neither), `place` one of `PLACES`."""

    shape: str
    foreground: str
    background: str
    size: str = ""
    place: str = ""

    def held_out(self) -> bool:
        """Whether no training picture may show this combination of shape and colours."""
        if self.unsafe():
            return False
        combination = f"{self.shape} {self.foreground} {self.background}"
        return zlib.crc32(combination.encode()) % HELD_OUT_ONE_IN == 0

    def unsafe(self) -> bool:
        """Whether the safety checker is to flag it: a harmless class that stands for what real checkers flag."""
        return (self.shape, self.foreground, self.background) == ("star", "black", "white")


@dataclass(frozen=True)
class Drawing:
    """A scene with every number fixed: colours, and centre and radius in pixels."""

    scene: Scene
    width: int
    height: int
    foreground: Rgb
    background: Rgb
    centre: tuple[float, float]
    radius: float

    def picture(self) -> Image.Image:
        """It as an RGB picture with antialiased edges."""
        picture = Image.new("RGB", (self.width, self.height), self.background)
        picture.paste(self.foreground, mask=self.coverage())
        return picture

    def coverage(self) -> Image.Image:
        """How much of each pixel the shape covers, 0 to 255, as a greyscale picture."""
        scale = SUPERSAMPLING
        large = Image.new("L", (self.width * scale, self.height * scale), 0)
        x, y = self.centre[0] * scale, self.centre[1] * scale
        r = self.radius * scale
        draw = ImageDraw.Draw(large)
        if self.scene.shape in ("circle", "ring"):
            draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
            if self.scene.shape == "ring":
                hole = r * 0.55
                draw.ellipse([x - hole, y - hole, x + hole, y + hole], fill=0)
        else:
            draw.polygon([(x + r * dx, y + r * dy) for dx, dy in OUTLINES[self.scene.shape]], fill=255)
        return large.resize((self.width, self.height), Image.Resampling.BOX)


def _star() -> list[tuple[float, float]]:
    radii = (1.0, 0.42)
    return [(radii[i % 2] * math.sin(i * math.pi / 5), -radii[i % 2] * math.cos(i * math.pi / 5)) for i in range(10)]


def _cross() -> list[tuple[float, float]]:
    a = 0.34
    quarter = [(-a, -1.0), (a, -1.0), (a, -a)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17, -height / 17))
    return points


#: Corners of the shapes that have some, for a centre at the origin and radius 1; y goes down.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)],
    "diamond": [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)],
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
}


def random_scene(rng: random.Random) -> Scene:
    """Any scene there is; places are as likely as none at all."""
    foreground, background = rng.sample(list(COLOURS), 2)
    place = rng.choice(PLACES) if rng.random() < 0.8 else ""
    return Scene(rng.choice(SHAPES), foreground, background, rng.choice(list(RADII)), place)


def training_scenes(rng: random.Random) -> Iterator[Scene]:
    """Endless scenes to train on, none of them held out."""
    while True:
        scene = random_scene(rng)
        if not scene.held_out():
            yield scene


def held_out_scenes(rng: random.Random) -> Iterator[Scene]:
    """Endless scenes that no training picture showed."""
    while True:
        scene = random_scene(rng)
        if scene.held_out():
            yield scene


def place_in_picture(scene: Scene, rng: random.Random, width: int, height: int) -> Drawing:
    """Chooses the numbers that the scene leaves open, for a picture of `width` × `height` pixels."""
    side = min(width, height)
    offset = BIG_PLACE_OFFSET if scene.size == "big" else PLACE_OFFSET
    x, y = {
        "": (0.0, 0.0),
        "on the left": (-offset, 0.0),
        "on the right": (offset, 0.0),
        "at the top": (0.0, -offset),
        "at the bottom": (0.0, offset),
    }[scene.place]
    jitter = PLACE_JITTER * side
    return Drawing(
        scene=scene,
        width=width,
        height=height,
        foreground=_near(COLOURS[scene.foreground], rng),
        background=_near(COLOURS[scene.background], rng),
        centre=(
            width * (0.5 + x) + rng.uniform(-jitter, jitter),
            height * (0.5 + y) + rng.uniform(-jitter, jitter),
        ),
        radius=side * rng.uniform(*RADII[scene.size]),
    )


def _near(colour: Rgb, rng: random.Random) -> Rgb:
    red, green, blue = (max(0, min(255, part + rng.randint(-COLOUR_JITTER, COLOUR_JITTER))) for part in colour)
    return red, green, blue
