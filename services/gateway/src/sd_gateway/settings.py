"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field

from sd_common.parameters import ModelName
from sd_common.settings import Flag, PictureSettings, SafetySettings


class GatewaySettings(PictureSettings, SafetySettings):
    """What the gateway reads besides NATS_*, MINIO_* and LOG_*."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    base_url: str = Field(
        default_factory=lambda data: f"http://localhost:{data.get('port', 8000)}",
        pattern="^https?://.+[^/]$",
        description="Where clients reach the gateway, without a slash at the end; blob URLs begin with it. "
        "Workers need the same. Default: `http://localhost:<PORT>`.",
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
        "0: no limit. All who use public tokens are one user.",
    )
    websocket_queue_events: int = Field(
        default=1000, ge=1, description="Events held for a websocket client that reads slowly, before it is closed."
    )
    websocket_send_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds a websocket client may take to accept one event, before it is closed."
    )
    shutdown_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds that requests under way have to end once the gateway is told to stop."
    )
