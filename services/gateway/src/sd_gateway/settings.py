"""Settings of the gateway."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from sd_common.allowed_models import is_model_allowed
from sd_common.health import HealthHost, HealthPort
from sd_common.parameters import ModelName
from sd_common.settings import FLAG_WORDS, BaseUrl, Flag, parse_names, split_at_commas
from sd_common.task_limits import SafetySettings, TaskSettings
from sd_gateway.rate_limits import Rate, RateSetting
from sd_gateway.remote_urls import RemoteImages

_HOST_PATTERN = re.compile(r"[a-z0-9*?.:-]+")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")

#: Base64 is 4/3 of the bytes, and a task may bring two pictures.
_BODY_BYTES_PER_PICTURE_BYTE = 3

#: Those of a picture that cannot be compressed, and more.
_FILE_BYTES_PER_PIXEL = 4

Network = IPv4Network | IPv6Network


def _parse_networks(value: Any) -> Any:
    return tuple(ip_network(each, strict=False) if isinstance(each, str) else each for each in parse_names(value))


def _parse_origins(value: Any) -> Any:
    origins = tuple(each.lower() for each in parse_names(value))
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"'{origin}' is no origin: give scheme, host and port alone, as https://example.org:8443")
    return origins


def parse_remote_images(value: object) -> object:
    """`off`, `public`, or patterns of hosts, separated by commas."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in ("off", "public"):
        return word
    patterns = tuple(split_at_commas(word))
    # A flag's word would be taken for a host, and no picture be fetched.
    if not patterns or not FLAG_WORDS.isdisjoint(patterns) or not all(map(_HOST_PATTERN.fullmatch, patterns)):
        raise ValueError("must be off, public, or hosts such as images.example.org,*.example.com")
    return patterns


class GatewaySettings(TaskSettings, SafetySettings):
    """What the gateway reads besides NATS_*, MINIO_*, LOG_* and OTEL_*."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    base_url: BaseUrl = Field(
        default_factory=lambda data: f"http://localhost:{data.get('port', 8000)}",
        description="Where clients reach the gateway, without a slash at the end; blob URLs begin with it, and its "
        "own web pages are those of this origin. Workers need the same. Default: `http://localhost:<PORT>`.",
    )
    print_link_with_token: Flag = Field(
        default=False, description="Print a link that makes a picture, with a token in it, at start. Auth needs it too."
    )
    link_query: str = Field(
        default="prompt=corgi&steps=2&model=CompVis/stable-diffusion-v1-4",
        description="The query of that link, without the token.",
    )
    default_model: ModelName | None = Field(
        default=None,
        description="The model of tasks that name none. Default: that of each task kind (see `/docs`).",
    )
    max_unfinished_tasks_per_user: int = Field(
        default=1000,
        ge=0,
        description="Tasks that a user may have queued and running; a submission beyond them is refused with 429. "
        "0: no limit. Each session of the public user counts as a user.",
    )
    remote_images: Annotated[RemoteImages, NoDecode, BeforeValidator(parse_remote_images)] = Field(
        default="off",
        description="Whether pictures of other hosts are fetched for tasks that start from them: `off`; `public`, from "
        "all of the internet; or from hosts of these patterns alone, separated by commas (`*.example.org`).",
    )
    remote_images_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds that fetching one picture may take, with its redirects."
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_origins)] = Field(
        default=(),
        description="Origins whose web pages may use the API too, by fetch (CORS) and websocket; separated by commas, "
        "`*` for all. Without it, the gateway's own pages alone may. Programs are not concerned.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_parse_networks)] = Field(
        default=(),
        description="Addresses and networks (CIDR) of the proxies in front, separated by commas: of them alone "
        "`X-Forwarded-For` is believed. Without it, all clients of a proxy share the limits of its address.",
    )
    sign_up_rate: RateSetting = Field(
        default=Rate(20, 3600), description="Sign-ups from one address, as `20/hour`; `off` for no limit."
    )
    log_in_rate: RateSetting = Field(default=Rate(10, 60), description="Log-ins from one address.")
    public_token_rate: RateSetting = Field(default=Rate(30, 60), description="Public tokens for one address.")
    name_rate: RateSetting = Field(
        default=Rate(30, 60), description="Sign-ups and log-ins with one name, from wherever they come."
    )
    websocket_queue_events: int = Field(
        default=1000, ge=1, description="Events held for a websocket client that reads slowly, before it is closed."
    )
    websocket_send_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds a websocket client may take to accept one event, before it is closed."
    )
    max_websockets_per_user: int = Field(
        default=100, ge=1, description="Websockets that one user may have open at this gateway."
    )
    max_connections_per_address: int = Field(
        default=1000,
        ge=1,
        description="Connections that one address may have open at this gateway, of IPv6 a /64 network; those of "
        "`TRUSTED_PROXIES` have no limit. Set it higher behind a proxy that is not among them.",
    )
    request_rate: RateSetting = Field(
        default=Rate(100, 1), description="Requests of one user at this gateway, websockets that are opened among them."
    )
    max_body_bytes: int | None = Field(
        default=None,
        ge=1024,
        description="Largest body of a request. Default: three times `MAX_UPLOAD_BYTES`, which two pictures as data "
        "URLs need.",
    )
    health_host: HealthHost = "127.0.0.1"
    health_port: HealthPort = 8083
    shutdown_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds that requests under way have to end once the gateway is told to stop."
    )

    @property
    def largest_body_bytes(self) -> int:
        """`MAX_BODY_BYTES`, or its default."""
        return self.max_body_bytes or _BODY_BYTES_PER_PICTURE_BYTE * self.max_upload_bytes

    @property
    def largest_picture_bytes(self) -> int:
        """Of a picture that was uploaded or made, as a file."""
        return max(self.max_upload_bytes, _FILE_BYTES_PER_PIXEL * self.max_picture_pixels)

    @model_validator(mode="after")
    def check_that_the_default_model_is_allowed(self) -> Self:
        if self.default_model is not None and not is_model_allowed(self.default_model, self.allowed_models):
            raise ValueError(f"DEFAULT_MODEL is '{self.default_model}', which ALLOWED_MODELS does not allow")
        return self
