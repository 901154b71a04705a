"""Pictures from tasks, on one device: a library over diffusers.

Knows nothing of asyncio, NATS or HTTP. `engine_thread.EngineThread` is the way in; `tasks` and `reports` are its nouns;
`models` brings models to the device. Import from the modules: this package itself imports nothing, so that its nouns
cost no import of torch.
"""
