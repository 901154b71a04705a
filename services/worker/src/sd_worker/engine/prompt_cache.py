"""Embeddings of prompts that were used before: a sample that joins a batch holds nobody up for their encoding."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch

#: One of SD 1.x has 0.2 MB with its negative prompt, of SDXL 0.6 MB, of Flux 4 MB.
_MOST_BYTES = 64 * 2**20


class PromptCache:
    """What `encode_prompt` of one model gave for the same arguments, the least recently used dropped."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._embeddings: OrderedDict[Hashable, object] = OrderedDict()
        self._num_bytes = 0

    def cached(self, encode_prompt: Callable[..., object]) -> Callable[..., object]:
        """`encode_prompt`, computed once for the same arguments."""

        def encode(*arguments: object, **keywords: object) -> object:
            key = (arguments, tuple(sorted(keywords.items())))
            try:
                hash(key)
            except TypeError:  # several prompts in a list
                return encode_prompt(*arguments, **keywords)
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
                return self._embeddings[key]
            embeddings = encode_prompt(*arguments, **keywords)
            self._add(key, embeddings)
            return embeddings

        return encode

    def _add(self, key: Hashable, embeddings: object) -> None:
        self._embeddings[key] = embeddings
        self._num_bytes += _num_bytes(embeddings)
        while self._num_bytes > self._most_bytes:
            _, dropped = self._embeddings.popitem(last=False)
            self._num_bytes -= _num_bytes(dropped)


def _num_bytes(embeddings: object) -> int:
    match embeddings:
        case torch.Tensor():
            return embeddings.nbytes
        case list() | tuple():
            return sum(map(_num_bytes, embeddings))
        case _:
            return 0
