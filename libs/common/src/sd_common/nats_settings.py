"""Where NATS is, and how to get in."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, field_validator, model_validator

from sd_common.settings import Settings, split_at_commas

#: That nats-py speaks. It waits for ever for a server of another.
_SCHEMES = ("nats", "tls", "ws", "wss")


def _is_server_url(text: str) -> bool:
    try:
        url = urlsplit(text if "://" in text else f"nats://{text}")
        port = url.port or 4222
    except ValueError:
        return False
    # Where a password has a slash, what is behind it is taken for the path.
    is_known = url.scheme in _SCHEMES
    return is_known and bool(url.hostname) and port > 0 and "@" not in url.path + url.query + url.fragment


class NatsSettings(Settings):
    """Where NATS is, and how to get in."""

    nats_url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="One or more server URLs, comma-separated. User and password may stand in them. With `tls://` for "
        "one of them, the password goes to no server without TLS.",
    )
    nats_user: str | None = Field(default=None, description="User, where the server asks for one.")
    nats_password: SecretStr | None = Field(default=None, description="Password of NATS_USER.")
    nats_tls_ca: FilePath | None = Field(
        default=None,
        description="File of the certificate authorities, in PEM form, of which one must have signed the server's "
        "certificate. With it, the password goes to no server without TLS.",
    )

    @field_validator("nats_url")
    @classmethod
    def check_urls(cls, value: SecretStr) -> SecretStr:
        if not all(map(_is_server_url, split_at_commas(value.get_secret_value()) or [""])):
            raise ValueError(
                "must be URLs such as nats://127.0.0.1:4222 (or tls://, ws://, wss://), separated by commas. A "
                "password with a character that has a meaning in URLs, such as / or #, goes to NATS_PASSWORD, and its "
                "user to NATS_USER"
            )
        return value

    @field_validator("nats_tls_ca")
    @classmethod
    def check_tls_ca(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                ssl.create_default_context(cafile=file)
            except ssl.SSLError:
                raise ValueError("the file holds no certificate in PEM form") from None
        return file

    @model_validator(mode="after")
    def check_user_and_password(self) -> NatsSettings:
        if bool(self.nats_user) is not bool(self.nats_password):
            raise ValueError("NATS_USER needs NATS_PASSWORD or NATS_PASSWORD_FILE, and these need NATS_USER")
        return self

    @model_validator(mode="after")
    def check_that_tls_is_spoken(self) -> NatsSettings:
        # nats-py speaks none with them, also where the server asks for it.
        if self.needs_tls and any(urlsplit(url).scheme == "ws" for url in self.servers):
            raise ValueError("NATS_TLS_CA and tls:// need servers that speak TLS: write wss:// in place of ws://")
        return self

    @property
    def servers(self) -> list[str]:
        """The URLs."""
        return split_at_commas(self.nats_url.get_secret_value())

    @property
    def needs_tls(self) -> bool:
        """Whether the password goes to no server without TLS, none that another server has told of either."""
        return self.nats_tls_ca is not None or any(urlsplit(url).scheme == "tls" for url in self.servers)

    @property
    def user(self) -> str | None:
        """Whom the server knows us as."""
        return self.nats_user or urlsplit(self.servers[0]).username

    @property
    def password(self) -> str | None:
        """That of `nats_user`."""
        return self.nats_password.get_secret_value() if self.nats_password else None
