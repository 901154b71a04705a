"""What is wrong with `.env` itself: what its readers would skip, or fail on without naming it."""

from __future__ import annotations

from pathlib import Path

from dotenv.parser import Binding, parse_stream


def check_env_file(file: Path) -> None:
    """Raises `ValueError`, with a sentence that names the file, where it cannot be read, or has a line that is none of
    settings. Of such a line only the number is told: it may hold a secret."""
    if not file.exists() or file.is_dir():
        return
    try:
        with file.open(encoding="utf-8") as opened:
            bindings = list(parse_stream(opened))
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: holds no UTF-8 text: save it in this encoding") from None
    for binding in bindings:
        if binding.error or _has_another_sign(binding):
            raise ValueError(f"{file}: line {_line(binding)} must be empty, a comment after #, or NAME=value")


def _has_another_sign(binding: Binding) -> bool:
    """Whether it is as `NAME:value`, which dotenv takes for a name without a value."""
    return binding.value is None and binding.key is not None and not binding.key.isidentifier()


def _line(binding: Binding) -> int:
    text = binding.original.string
    before = text[: len(text) - len(text.lstrip())]
    return binding.original.line + before.count("\n")
