"""A prompt that was used before is not encoded again, and the cache stays as small as it is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from unit.engine.recorder import TickedEngine, network_of, txt2img

from sd_worker.engine.prompt_cache import PromptCache

#: Bytes of an embedding below.
NUM_BYTES = 16


@pytest.fixture
def encoded() -> list[str]:
    """The prompts that were encoded."""
    return []


@pytest.fixture
def encode_prompt(encoded: list[str]) -> Callable[..., tuple[torch.Tensor, None]]:
    def encode_prompt(prompt: str, *, clip_skip: int | None = None) -> tuple[torch.Tensor, None]:
        encoded.append(prompt)
        return torch.full((4,), float(len(encoded))), None

    return encode_prompt


def test_the_least_recently_used_goes_when_there_are_too_many_bytes(
    encode_prompt: Callable[..., object], encoded: list[str]
) -> None:
    encode = PromptCache(most_bytes=2 * NUM_BYTES).cached(encode_prompt)

    for prompt in ("a", "b", "a", "c", "a", "b"):
        encode(prompt)

    assert encoded == ["a", "b", "c", "b"]


def test_what_does_not_fit_at_all_is_not_kept(encode_prompt: Callable[..., object], encoded: list[str]) -> None:
    encode = PromptCache(most_bytes=NUM_BYTES - 1).cached(encode_prompt)

    for _ in range(2):
        encode("a")

    assert encoded == ["a", "a"]


def test_other_arguments_are_another_embedding_and_lists_are_not_kept(
    encode_prompt: Callable[..., object], encoded: list[str]
) -> None:
    encode = PromptCache().cached(encode_prompt)

    results = [encode("a"), encode("a", clip_skip=1), encode("a")]
    for _ in range(2):
        encode(["a"])

    assert results[0] is results[2]
    assert results[0] is not results[1]
    assert encoded == ["a", "a", ["a"], ["a"]]


def test_a_second_picture_of_a_prompt_encodes_nothing(ticked: TickedEngine) -> None:
    num_passes = 0

    def look(*_: object) -> None:
        nonlocal num_passes
        num_passes += 1

    network_of(ticked.models, "sd1", "text_encoder").register_forward_pre_hook(look)

    first = ticked.finish(txt2img())
    num_first = num_passes
    assert num_first > 0
    assert ticked.finish(txt2img()).png == first.png
    assert num_passes == num_first
    ticked.finish(txt2img(prompt="another"))
    assert num_passes > num_first
