"""What the services' Dockerfiles say."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its lines joined."""

    name: str
    rest: str

    @property
    def is_exec_form(self) -> bool:
        return self.rest.startswith("[")

    def words(self) -> list[str]:
        """The arguments; for COPY and the like without flags."""
        if self.is_exec_form:
            return [str(word) for word in json.loads(self.rest)]
        return [word for word in shlex.split(self.rest) if not word.startswith("--")]


@cache
def dockerfile(service: str) -> tuple[Instruction, ...]:
    """The instructions of a service's Dockerfile."""
    lines = (ROOT / "services" / service / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return tuple(Instruction(*re.split(r"\s+", line, maxsplit=1)) for line in joined)


def build_stage(service: str) -> tuple[Instruction, ...]:
    """The instructions of the stage named `build`, where packages are installed, without its FROM."""
    instructions = dockerfile(service)
    start = next(i for i, each in enumerate(instructions) if each.name == "FROM" and each.rest.endswith(" AS build"))
    rest = instructions[start + 1 :]
    return rest[: next(i for i, each in enumerate(rest) if each.name == "FROM")]


def final_stage(service: str) -> tuple[Instruction, ...]:
    """The instructions of the stage that becomes the image."""
    instructions = dockerfile(service)
    start = max(index for index, instruction in enumerate(instructions) if instruction.name == "FROM")
    return instructions[start:]


def only(instructions: Iterable[Instruction], name: str) -> Instruction:
    """The one instruction of this name."""
    [instruction] = [instruction for instruction in instructions if instruction.name == name]
    return instruction


def variables(instructions: Iterable[Instruction], name: str = "ENV") -> dict[str, str]:
    """What these instructions set: by ENV, ARG or LABEL."""
    words = [word for item in instructions if item.name == name for word in item.words()]
    return dict(word.split("=", 1) for word in words)
