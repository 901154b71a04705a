"""Secrets that the embedded mode makes for itself, kept for the next start."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import BaseModel, Field

from sd_common.nats_users import users

SECRETS_FILE = "secrets.json"


def _nats_passwords() -> dict[str, str]:
    return {user.name: secrets.token_hex(20) for user in users()}


class KeptSecrets(BaseModel):
    """Of this data directory alone."""

    secret_key: str = Field(default_factory=lambda: secrets.token_hex(32))
    s3_access_key: str = Field(default_factory=lambda: secrets.token_hex(10))
    s3_secret_key: str = Field(default_factory=lambda: secrets.token_hex(20))
    #: By the user's name.
    nats_passwords: dict[str, str] = Field(default_factory=_nats_passwords)


def keep_secrets(directory: Path) -> KeptSecrets:
    """The secrets of the last start. Missing ones are made now, also those that an earlier version did not have.

    The file is readable by its owner alone.
    """
    file = directory / SECRETS_FILE
    kept = KeptSecrets.model_validate_json(file.read_text()) if file.exists() else KeptSecrets()
    for name, password in _nats_passwords().items():
        kept.nats_passwords.setdefault(name, password)
    write_private(file, kept.model_dump_json())
    return kept


def write_private(file: Path, text: str) -> None:
    """Write a file, whole or not at all, that its owner alone can read."""
    draft = file.with_name(f".{file.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    draft.replace(file)
