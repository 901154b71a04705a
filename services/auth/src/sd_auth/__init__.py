"""Users and tokens, as a NATS micro service."""
