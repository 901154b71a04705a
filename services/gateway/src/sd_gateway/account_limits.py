"""How often accounts may be asked for: what guessing passwords, and making users and tokens in heaps, runs into."""

from __future__ import annotations

from sd_gateway.rate_limits import RateLimit
from sd_gateway.settings import GatewaySettings


class AccountLimits:
    """The limits, to be used in this order: an address that has used up its own must use up nobody's name."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.sign_ups_of_address = RateLimit(settings.sign_up_rate, "sign-ups from your address")
        self.log_ins_of_address = RateLimit(settings.log_in_rate, "log-ins from your address")
        self.public_tokens_of_address = RateLimit(settings.public_token_rate, "public tokens for your address")
        self.of_name = RateLimit(settings.name_rate, "sign-ups and log-ins with this name")
