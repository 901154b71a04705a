"""The auth service with no more rights on NATS than its README says it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from sd_auth.app import AuthApp
from sd_common.nats_client import connect
from sd_common.provision import provision_streams
from sd_common.settings import NatsSettings, StreamSettings
from support.auth_requests import PASSWORD, Refused, create_auth_settings, log_in, revoke, sign_up
from support.servers import nats_server

_CONFIG = """
authorization {
  users: [
    { user: admin, password: pw }
    { user: auth, password: pw, permissions: {
        publish: ["$KV.users.*", "$JS.API.STREAM.INFO.KV_users", "$JS.API.STREAM.MSG.GET.KV_users",
          "$KV.revoked_tokens.*", "$JS.API.STREAM.INFO.KV_revoked_tokens",
          "$JS.API.DIRECT.GET.KV_revoked_tokens.>"]
        subscribe: ["_INBOX_auth.>", "auth.*", "$SRV.>"]
        allow_responses: true } }
  ]
}
"""


async def test_the_permissions_in_the_readme_are_enough(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(_CONFIG)
    with nats_server(extra_args=("-c", str(config))) as server:
        address = server.url.removeprefix("nats://")
        admin_settings = NatsSettings(_env_file=None, nats_url=SecretStr(f"nats://admin:pw@{address}"))
        auth_settings = NatsSettings(_env_file=None, nats_url=SecretStr(f"nats://auth:pw@{address}"))
        client = await connect(admin_settings, "test")
        await provision_streams(client.jetstream(), StreamSettings(_env_file=None))
        app = AuthApp(create_auth_settings(), auth_settings)
        await app.start()
        await sign_up(client, "alice")
        token = await log_in(client, "alice", PASSWORD)
        for _ in range(2):
            assert (await revoke(client, token)).token_id
        with pytest.raises(Refused):
            await sign_up(client, "alice")
        await app.stop()
        await client.shut()
