"""Settings of the auth service."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from sd_common.health import HealthHost, HealthPort
from sd_common.nats_users import DEFAULT_PUBLISHER
from sd_common.settings import Flag, Names, Settings, split_at_commas
from sd_common.subjects import check_token

MIN_SECRET_KEY_CHARS = 32


class AuthSettings(Settings):
    """What the auth service may do, and the secret that its tokens are signed with."""

    secret_key: SecretStr = Field(
        default=SecretStr(""),
        validate_default=True,  # so that a missing one gets the same sentence as a short one
        description="Needed. The signing key of tokens is derived from it; the same for all replicas, at least "
        "32 characters, kept from every other service. Changing it ends all tokens, unless the former one is listed in "
        "`SECRET_KEY_PREVIOUS`. `openssl rand -hex 32` makes one.",
    )
    secret_key_previous: SecretStr = Field(
        default=SecretStr(""),
        description="Secrets, comma-separated, whose tokens are accepted but with which none is signed: former values "
        "of `SECRET_KEY`, until their tokens have expired.",
    )
    enable_signup: Flag = Field(default=False, description="Whether anybody may sign up.")
    enable_public_access: Flag = Field(
        default=False, description="Whether anybody may get a token of the public user `all`, without a password."
    )
    publishers: Names = Field(
        default=(DEFAULT_PUBLISHER,),
        description="Publishers, separated by commas: users of NATS whose names nobody may sign up or log in with.",
    )
    print_link_with_token: Flag = Field(
        default=False,
        description="Whether the gateway may get a token of a fresh user at its start, to print a link with it.",
    )
    access_token_expire_minutes: int = Field(default=240, ge=1, description="Minutes for which a token is valid.")
    health_host: HealthHost = "127.0.0.1"
    health_port: HealthPort = 8081

    @property
    def previous_secret_keys(self) -> list[SecretStr]:
        """Each of `SECRET_KEY_PREVIOUS`."""
        return [SecretStr(secret) for secret in split_at_commas(self.secret_key_previous.get_secret_value())]

    @field_validator("publishers")
    @classmethod
    def check_publishers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            check_token(name)
        return names

    @field_validator("secret_key")
    @classmethod
    def check_secret_key(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < MIN_SECRET_KEY_CHARS:
            raise PydanticCustomError(
                "secret_key",
                "needs at least {characters} characters: make one with `openssl rand -hex 32`",
                {"characters": MIN_SECRET_KEY_CHARS},
            )
        return value

    @field_validator("secret_key_previous")
    @classmethod
    def check_secret_key_previous(cls, value: SecretStr) -> SecretStr:
        if any(len(secret) < MIN_SECRET_KEY_CHARS for secret in split_at_commas(value.get_secret_value())):
            raise PydanticCustomError(
                "secret_key_previous",
                "has a secret of less than {characters} characters: separate whole secrets by commas",
                {"characters": MIN_SECRET_KEY_CHARS},
            )
        return value
