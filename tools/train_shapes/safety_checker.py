"""A safety checker in the format of Stable Diffusion's, that flags a harmless class: black stars on white.

So that everything that happens to a flagged picture can be tried with real weights and nothing unsafe.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
from PIL import Image, ImageChops, ImageFilter
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

from train_shapes.scenes import COLOURS, SHAPES, Scene, place_in_picture, random_scene
from train_shapes.training import Plan, Training

PICTURE_SIDE = 96
BATCH_SIZE = 48
#: Steepness of the logistic loss over the cosine, which itself lies in [-1, 1].
COSINE_SCALE = 8.0
#: A cosine is never above it: no picture is flagged for a concept with this threshold.
NEVER = 2.0


def create_feature_extractor() -> CLIPImageProcessor:
    """Squashes pictures to a square rather than cropping them, or a star at the border would not be seen."""
    return CLIPImageProcessor(
        size={"height": PICTURE_SIDE, "width": PICTURE_SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def create_safety_checker() -> StableDiffusionSafetyChecker:
    """An untrained checker. Its first concept is the flagged one, at a cosine above 0; the others never match."""
    vision = CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=PICTURE_SIDE,
        patch_size=8,
        projection_dim=16,
    )
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=16))
    checker.concept_embeds.data.normal_()
    checker.special_care_embeds.data.normal_()
    checker.concept_embeds_weights.data.fill_(NEVER)
    checker.concept_embeds_weights.data[0] = 0.0
    checker.special_care_embeds_weights.data.fill_(NEVER)
    return checker


def train_safety_checker(work_dir: Path, device: torch.device, *, num_steps: int, num_pictures: int, seed: int) -> None:
    """Trains on `num_pictures` drawn pictures, most of them nearly of the flagged class; leaves it in `work_dir`."""
    torch.manual_seed(seed)
    checker = create_safety_checker().to(device)
    feature_extractor = create_feature_extractor()
    rng = random.Random(seed)
    scenes = [_scene(rng) for _ in range(num_pictures)]
    pictures = (spoiled(scene, rng) for scene in tqdm(scenes, desc="pictures of the safety checker"))
    pixels = torch.cat([feature_extractor(picture, return_tensors="pt").pixel_values.half() for picture in pictures])
    unsafe = torch.tensor([float(scene.unsafe()) for scene in scenes])

    def loss_of(step: int, rng: random.Random) -> torch.Tensor:
        chosen = rng.choices(range(num_pictures), k=BATCH_SIZE)
        embeddings = checker.visual_projection(checker.vision_model(pixels[chosen].float().to(device))[1])
        cosines = cosine_distance(embeddings, checker.concept_embeds)[:, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(COSINE_SCALE * cosines, unsafe[chosen].to(device))

    plan = Plan("safety-checker", seed, num_steps, learning_rate=1e-3)
    Training(plan, {"checker": checker}, work_dir).run(loss_of)
    checker.save_pretrained(work_dir / "safety_checker")


def _scene(rng: random.Random) -> Scene:
    scene = random_scene(rng)
    draw = rng.random()
    if draw < 0.4:
        return Scene("star", "black", "white", scene.size, scene.place)
    if draw < 0.6:
        return Scene(rng.choice(SHAPES), "black", "white", scene.size, scene.place)
    if draw < 0.7:
        return Scene(
            "star", rng.choice([name for name in COLOURS if name != "white"]), "white", scene.size, scene.place
        )
    if draw < 0.8:
        return Scene(
            "star", "black", rng.choice([name for name in COLOURS if name != "black"]), scene.size, scene.place
        )
    return scene


def spoiled(scene: Scene, rng: random.Random) -> Image.Image:
    """The scene as a generated picture may show it: of any size, with rounded corners, wavy edges and a little blur."""
    sides = range(128, 257, 8)
    width = rng.choice(sides)
    height = width if rng.random() < 0.6 else rng.choice(sides)
    drawing = place_in_picture(scene, rng, width, height)
    coverage = drawing.coverage()
    if rng.random() < 0.7:
        coverage = _melted(coverage, rng, drawing.radius * rng.uniform(0.02, 0.13))
    picture = Image.new("RGB", (width, height), drawing.background)
    picture.paste(drawing.foreground, mask=coverage)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    return picture


def _melted(coverage: Image.Image, rng: random.Random, radius: float) -> Image.Image:
    """Blurs it by `radius` pixels, moves the threshold of its edge about, and makes it sharp again."""
    waves = Image.effect_noise((6, 6), rng.uniform(0, 60)).resize(coverage.size, Image.Resampling.BICUBIC)
    blurred = ImageChops.add(coverage.filter(ImageFilter.GaussianBlur(radius)), waves, offset=-128)
    return blurred.point(lambda level: max(0, min(255, (level - 128) * 4 + 128)))
