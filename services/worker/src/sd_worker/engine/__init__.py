"""Pictures from tasks, on one device: a library over diffusers.

Knows nothing of asyncio, NATS or HTTP. `engine.Engine` is the way in, `tasks` are its nouns. Import from the modules:
this package itself imports nothing, so that `tasks` costs no import of torch.
"""
