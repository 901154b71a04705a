"""Reads a picture back: which shape of which colour on which background, and where.

By rule and not by a network, so that the evaluation does not grade itself; its own accuracy on drawn pictures is
printed beside every result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from train_shapes.scenes import COLOURS, PLACE_OFFSET, SHAPES, Drawing, Scene

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Width of the frame that the background is read from, in pixels.
FRAME = 4
#: Sum over the channels by which a pixel of the shape differs from the background, of 765.
LEAST_CONTRAST = 60
#: Smaller than this share of the picture is no shape.
LEAST_AREA = 0.004
#: Side in pixels of the square that shapes are compared in.
TEMPLATE_SIDE = 48


@dataclass(frozen=True)
class Reading:
    """What a picture shows; None where nothing stands out from the background."""

    background: str
    foreground: str | None
    shape: str | None
    #: Middle of the shape's bounding box, in parts of the picture's width and height, from the left top.
    centre: tuple[float, float] | None
    #: Half the longer side of the bounding box, in parts of the picture's shorter side.
    radius: float | None
    #: Mean gradient along the shape's contour, in parts of the contrast per pixel: 0.5 is a hard edge.
    edge_gradient: float | None

    def colours_agree(self, scene: Scene) -> bool:
        """Whether both colours are the scene's."""
        return (self.background, self.foreground) == (scene.background, scene.foreground)

    def agrees(self, scene: Scene) -> bool:
        """Whether both colours and the shape are the scene's."""
        return self.colours_agree(scene) and self.shape == scene.shape

    def place_agrees(self, scene: Scene) -> bool:
        """Whether the shape is where the scene has it, or in the middle where it names no place."""
        if self.centre is None:
            return False
        x, y = (part - 0.5 for part in self.centre)
        # Big shapes have less room, so they are judged by half of what others have.
        least = 0.045 if scene.size == "big" else PLACE_OFFSET / 2
        sides = {"on the left": -x, "on the right": x, "at the top": -y, "at the bottom": y}
        if scene.place:
            return sides[scene.place] > least
        return max(abs(x), abs(y)) < least * 1.5


def read(picture: Image.Image) -> Reading:
    """Reads an RGB picture of any size."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    background = _median(_frame(pixels))
    difference = np.abs(pixels - background).sum(-1)
    mask = difference > max(LEAST_CONTRAST, 0.5 * np.percentile(difference, 99.5))
    if mask.mean() < LEAST_AREA:
        return Reading(_name(background), None, None, None, None, None)
    # The inside alone: edges are a mixture of both colours.
    foreground = _median(pixels[_eroded(mask)] if _eroded(mask).any() else pixels[mask])
    contrast = foreground - background
    share = np.clip((pixels - background) @ contrast / (contrast @ contrast), 0, 1)
    mask = share > 0.5
    top, bottom, left, right = _bounds(mask)
    height, width = mask.shape
    return Reading(
        background=_name(background),
        foreground=_name(foreground),
        shape=_shape(mask[top:bottom, left:right]),
        centre=((left + right) / 2 / width, (top + bottom) / 2 / height),
        radius=max(bottom - top, right - left) / 2 / min(width, height),
        edge_gradient=_edge_gradient(share),
    )


def _frame(pixels: Floats) -> Floats:
    strips = (pixels[:FRAME], pixels[-FRAME:], pixels[:, :FRAME], pixels[:, -FRAME:])
    return np.concatenate([strip.reshape(-1, 3) for strip in strips])


def _median(pixels: Floats) -> Floats:
    return np.median(pixels, axis=0)


def _name(colour: Floats) -> str:
    return min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - colour).sum()))


def _eroded(mask: Mask) -> Mask:
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the mask without its outermost hundredth, which may be specks."""
    rows, columns = np.where(mask)
    top, bottom = np.percentile(rows, [0.5, 99.5])
    left, right = np.percentile(columns, [0.5, 99.5])
    return int(top), int(bottom) + 1, int(left), int(right) + 1


def _template(mask: Mask) -> Mask:
    square = (TEMPLATE_SIDE, TEMPLATE_SIDE)
    return np.asarray(Image.fromarray(mask).convert("L").resize(square, Image.Resampling.BOX)) > 127


def _shape(mask: Mask) -> str:
    """The shape whose outline, stretched to the same bounding box, overlaps best (intersection over union)."""
    seen = _template(mask)
    overlaps = {shape: (seen & template).sum() / (seen | template).sum() for shape, template in _templates().items()}
    return max(overlaps, key=lambda shape: overlaps[shape])


@cache
def _templates() -> dict[str, Mask]:
    templates = {}
    for shape in SHAPES:
        scene = Scene(shape, "black", "white")
        drawing = Drawing(scene, 256, 256, COLOURS["black"], COLOURS["white"], (128, 128), 100)
        mask = np.asarray(drawing.coverage()) > 127
        top, bottom, left, right = _bounds(mask)
        templates[shape] = _template(mask[top:bottom, left:right])
    return templates


def _edge_gradient(share: Floats) -> float | None:
    """Mean length of the gradient where the contour runs: at the shape's pixels that touch the background."""
    inside = share > 0.5
    contour = inside & ~_eroded(inside)
    contour[[0, -1]] = False
    contour[:, [0, -1]] = False
    if not contour.any():
        return None
    down, across = np.gradient(share)
    return float(np.hypot(down, across)[contour].mean())
