"""A CLIP tokenizer of a few hundred tokens: one for every word of the captions, and the bytes for all others."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

MAX_TOKENS = 77


def create_tokenizer(words: list[str]) -> CLIPTokenizer:
    """Byte pair encoding (Sennrich et al., arXiv:1508.07909) merged until each of `words` is one token."""
    characters = list(bytes_to_unicode().values())
    tokens = dict.fromkeys(characters)
    tokens |= {f"{character}</w>": None for character in characters}
    spellings = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for spelling in spellings for pair in pairwise(spelling)):
        merge = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(merge)
        tokens["".join(merge)] = None
        spellings = [_merged(spelling, merge) for spelling in spellings]
    tokens |= {"<|startoftext|>": None, "<|endoftext|>": None}
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _merged(spelling: list[str], merge: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for symbol in spelling:
        if result and (result[-1], symbol) == merge:
            result[-1] += symbol
        else:
            result.append(symbol)
    return result
