"""Secrets that the embedded mode makes for itself, kept for the next start."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, Field


class KeptSecrets(BaseModel):
    """Of this data directory alone."""

    secret_key: str = Field(default_factory=lambda: secrets.token_hex(32))
    s3_access_key: str = Field(default_factory=lambda: secrets.token_hex(10))
    s3_secret_key: str = Field(default_factory=lambda: secrets.token_hex(20))


def keep_secrets(directory: Path) -> KeptSecrets:
    """Those of the last start, or new ones. The file is readable by its owner alone."""
    file = directory / "secrets.json"
    if file.exists():
        return KeptSecrets.model_validate_json(file.read_text())
    made = KeptSecrets()
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        json.dump(made.model_dump(), opened)
    return made
