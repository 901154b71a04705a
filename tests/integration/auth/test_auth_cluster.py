"""Users in a cluster of three nats-servers, where a read may be answered by a replica that is behind."""

from __future__ import annotations

from sd_auth.users import UserRecord, Users
from sd_common.buckets import Bucket
from sd_common.nats_client import NatsClient
from sd_common.streams import USERS_BUCKET

_NUM_USERS = 2000


async def test_a_user_is_found_as_soon_as_they_have_signed_up(cluster_clients: list[NatsClient]) -> None:
    replicas = [Users(Bucket(client, USERS_BUCKET)) for client in cluster_clients]
    for number in range(_NUM_USERS):
        record = UserRecord(username=f"user-{number}", password_hash="hash")
        await replicas[number % len(replicas)].create(record)
        for users in replicas:
            assert await users.find(record.username) is not None
