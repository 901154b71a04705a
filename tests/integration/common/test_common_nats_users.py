"""What each user of NATS may do, tried with its credentials: all that stands here, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from sd_common.auth_messages import OPERATIONS
from sd_common.errors import PublisherNameError
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_users import SERVICES, publisher
from sd_common.provision import provision_streams
from sd_common.streams import USERS_BUCKET, StreamSettings
from sd_common.subjects import ModelLane, TaskRef
from support.connections import is_let_in
from support.servers import AMONG_THE_STREAMS, TESTER, NatsServerWithUsers, nats_server_with_users

P, G, A, W = (service.name for service in SERVICES)
#: Publishers.
I, O = "internal", "other"  # noqa: E741
USERS = (P, G, A, W, I, O)
_VIOLATION = re.compile(r'for (subscription|publish) to "(.*)"')  # nats-py tells it in lower case
STREAMS = ("JOBS", "EVENTS", "KV_users", "KV_idempotency_keys", "KV_revoked_tokens")
NOBODY: set[str] = set()

#: Subjects, and who may listen to them.
LISTENING: list[tuple[str, set[str]]] = [
    *(
        (subject, NOBODY)
        for subject in (">", "*", "*.>", "$SYS.>", "$JS.>", "$JS.API.>", "$JS.EVENT.>", "$KV.>", "_INBOX.>")
    ),
    *((f"_INBOX_{user}.>", {user}) for user in USERS),
    ("jobs.>", NOBODY),
    ("jobs.*", NOBODY),
    ("jobs.shapes-12345678.first", NOBODY),
    ("events.>", NOBODY),
    ("events.internal.*.*", NOBODY),
    ("feed.>", {G}),
    ("feed.internal.>", {G, I}),
    ("feed.internal.s.t", {G, I}),
    ("feed.other.s.t", {G, O}),
    ("feed.*.s.t", {G}),
    ("feed.alice.>", {G}),
    ("progress.>", {G}),
    ("progress.internal.*.*", {G, I}),
    ("progress.other.>", {G, O}),
    ("progress.alice.s.*", {G}),
    ("cancels.*", {W}),
    ("workers.*", {G}),
    ("roll_call", {W}),
    ("backlog", {G, W}),
    ("held_models", {W}),
    ("revoked_tokens.*", {G}),
    ("$KV.users.>", NOBODY),
    ("$KV.users.alice", NOBODY),
    ("$KV.revoked_tokens.*", NOBODY),
    ("auth.>", NOBODY),
    ("auth.*", NOBODY),
    *((operation, {A}) for operation in OPERATIONS),
    ("$SRV.PING", {A}),
]
#: Subjects, and who may publish to them.
PUBLISHING: list[tuple[str, set[str]]] = [
    *((f"_INBOX_{user}.x", NOBODY) for user in USERS),
    ("jobs.shapes-12345678", {G, I, O}),
    ("jobs.shapes-12345678.first", {G}),
    ("jobs.shapes-12345678.next", {G}),
    ("events.alice.s.t", {G, W}),
    ("events.internal.s.t", {G, W, I}),
    ("events.other.s.t", {G, W, O}),
    ("feed.internal.s.t", NOBODY),
    ("progress.alice.s.t", {W}),
    ("progress.internal.s.t", {W}),
    ("cancels.t", {G, I, O}),
    ("workers.w-12345678", {W}),
    ("roll_call", {G}),
    ("backlog", {W}),
    ("held_models", {W}),
    ("revoked_tokens.t", NOBODY),
    *((operation, {G}) for operation in OPERATIONS),
    ("$KV.users.alice", {A}),
    ("$KV.idempotency_keys.alice.key", {G}),
    ("$KV.revoked_tokens.t", {A}),
    ("$SRV.PING", NOBODY),
    ("$SYS.REQ.SERVER.PING", NOBODY),
    ("$SYS.REQ.ACCOUNT.PING.CONNZ", NOBODY),
    ("$SYS.REQ.USER.INFO", NOBODY),
    # What changes or hands out whole streams. A name that is not ours is nobody's.
    *(
        (f"$JS.API.STREAM.{verb}.{stream}", {P})
        for stream in STREAMS
        for verb in ("CREATE", "UPDATE", "SNAPSHOT", "RESTORE")
    ),
    *((f"$JS.SNAPSHOT.{verb}.{stream}.id", {P}) for stream in STREAMS for verb in ("ACK", "RESTORE")),
    *(
        (f"$JS.API.STREAM.{verb}.{stream}", NOBODY)
        for stream in STREAMS
        for verb in ("DELETE", "PURGE", "LEADER.STEPDOWN", "PEER.REMOVE")
    ),
    *((f"$JS.API.STREAM.{verb}.MINE", NOBODY) for verb in ("CREATE", "UPDATE", "DELETE", "INFO")),
    *((f"$JS.API.{call}", NOBODY) for call in ("INFO", "STREAM.NAMES", "STREAM.LIST", "ACCOUNT.PURGE.$G")),
    ("$JS.API.STREAM.INFO.JOBS", {P, W}),
    ("$JS.API.STREAM.INFO.EVENTS", {P, G}),
    ("$JS.API.STREAM.INFO.KV_users", {P, A}),
    ("$JS.API.STREAM.INFO.KV_idempotency_keys", {P, G}),
    ("$JS.API.STREAM.INFO.KV_revoked_tokens", {P, A}),
    ("$JS.API.STREAM.MSG.DELETE.JOBS", {G}),
    *((f"$JS.API.STREAM.MSG.DELETE.{stream}", NOBODY) for stream in STREAMS[1:]),
    ("$JS.API.STREAM.MSG.GET.JOBS", NOBODY),
    ("$JS.API.STREAM.MSG.GET.EVENTS", {G, W}),
    ("$JS.API.STREAM.MSG.GET.KV_users", {A}),
    ("$JS.API.STREAM.MSG.GET.KV_idempotency_keys", {G}),
    ("$JS.API.STREAM.MSG.GET.KV_revoked_tokens", NOBODY),
    ("$JS.API.DIRECT.GET.JOBS", {G, W}),
    ("$JS.API.DIRECT.GET.JOBS.jobs.shapes-12345678", NOBODY),
    ("$JS.API.DIRECT.GET.EVENTS", {G}),
    ("$JS.API.DIRECT.GET.EVENTS.events.alice.s.t", {G, W}),
    ("$JS.API.DIRECT.GET.EVENTS.events.internal.s.t", {G, W, I}),
    ("$JS.API.DIRECT.GET.EVENTS.events.other.*.t", {G, W, O}),
    ("$JS.API.DIRECT.GET.EVENTS.events.*.*.t", {G, W}),
    ("$JS.API.DIRECT.GET.KV_users", NOBODY),
    ("$JS.API.DIRECT.GET.KV_users.$KV.users.alice", NOBODY),
    ("$JS.API.DIRECT.GET.KV_idempotency_keys.$KV.idempotency_keys.k", NOBODY),
    ("$JS.API.DIRECT.GET.KV_revoked_tokens", {G}),
    ("$JS.API.DIRECT.GET.KV_revoked_tokens.$KV.revoked_tokens.t", {A}),
    # Consumers: workers make and use those of jobs, provisioning deletes what is none, and nobody has any others.
    ("$JS.API.CONSUMER.CREATE.JOBS.shapes.jobs.shapes", {W}),
    ("$JS.API.CONSUMER.CREATE.JOBS.shapes-first.jobs.shapes.first", {W}),
    ("$JS.API.CONSUMER.CREATE.JOBS.all.jobs.>", {W}),  # as far as rights go, > is the name of a model
    ("$JS.API.CONSUMER.CREATE.JOBS.all", NOBODY),
    ("$JS.API.CONSUMER.INFO.JOBS.shapes", {G}),
    ("$JS.API.CONSUMER.MSG.NEXT.JOBS.shapes", {W}),
    ("$JS.ACK.JOBS.shapes.1.1.1.1.1", {W}),
    *((f"$JS.ACK.{stream}.x.1.1.1.1.1", NOBODY) for stream in STREAMS[1:]),
    *((f"$JS.API.CONSUMER.{verb}.{stream}.x", NOBODY) for stream in STREAMS for verb in ("PAUSE", "DURABLE.CREATE")),
    ("$JS.API.CONSUMER.DELETE.JOBS.x", {P}),
    ("$JS.API.CONSUMER.LIST.JOBS", {P}),
    *((f"$JS.API.CONSUMER.{verb}.{stream}", NOBODY) for stream in STREAMS[1:] for verb in ("DELETE.x", "LIST")),
    *((f"$JS.API.CONSUMER.{verb}.{stream}", NOBODY) for stream in STREAMS for verb in ("CREATE", "NAMES")),
    *((f"$JS.API.CONSUMER.CREATE.{stream}.x.>", NOBODY) for stream in STREAMS[1:]),
    *((f"$JS.API.CONSUMER.MSG.NEXT.{stream}.x", NOBODY) for stream in STREAMS[1:]),
]


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServerWithUsers]:
    with nats_server_with_users((I, O), AMONG_THE_STREAMS) as server:
        asyncio.run(_provision(server))
        yield server


async def _provision(server: NatsServerWithUsers) -> None:
    client = await connect(server.settings_of(P), "provision")
    await provision_streams(client.jetstream(), StreamSettings(_env_file=None))
    await client.shut()


@asynccontextmanager
async def _connected(server: NatsServerWithUsers, user: str) -> AsyncIterator[tuple[NatsClient, list[str]]]:
    """As this user, with what the server refuses."""
    client = await connect(server.settings_of(user), "test")
    violations: list[str] = []

    async def note(error: Exception) -> None:
        violations.append(str(error))

    client._error_cb = note
    try:
        yield client, violations
    finally:
        await client.shut()


@pytest.mark.parametrize("user", USERS)
async def test_each_user_is_refused_all_that_it_does_not_need(server: NatsServerWithUsers, user: str) -> None:
    async with _connected(server, user) as (client, violations):
        for subject, _ in LISTENING:
            await client.subscribe(subject, cb=_ignore)
        for subject, _ in PUBLISHING:
            await client.publish(subject, b"{}")
        await client.flush()  # the server tells of each violation before it answers
    told = {match.groups() for line in violations if (match := _VIOLATION.search(line))}
    refused = {("subscription", subject.lower()) for subject, allowed in LISTENING if user not in allowed}
    refused |= {("publish", subject.lower()) for subject, allowed in PUBLISHING if user not in allowed}
    assert told == refused


@pytest.mark.parametrize(
    ("teller", "hearer", "subject"),
    [
        (W, G, "progress.alice.s.t"),
        (W, I, "progress.internal.s.t"),
        (W, G, "workers.w-12345678"),
        (W, W, "backlog"),
        (W, W, "held_models"),
        (G, W, "cancels.t"),
        (I, W, "cancels.t"),
        (O, W, "cancels.t"),
        (G, W, "roll_call"),
    ],
)
async def test_what_is_told_arrives(server: NatsServerWithUsers, teller: str, hearer: str, subject: str) -> None:
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    async with _connected(server, teller) as (telling, _), _connected(server, hearer) as (hearing, _):
        await hearing.subscribe(subject, cb=heard.put)
        await hearing.flush()
        await telling.publish(subject, b"news")
        async with asyncio.timeout(20):
            assert (await heard.get()).data == b"news"


#: What an answer must not be sent to: it would delete, forge, or be read by somebody else.
SINKS = (
    "$JS.API.STREAM.DELETE.KV_users",
    "$JS.API.STREAM.PURGE.KV_revoked_tokens",
    "$KV.users.alice",
    "events.victim.s.t",
    "jobs.forged",
    "sink",
    "_INBOX_provision.x",
    *OPERATIONS,
)


@asynccontextmanager
async def _watched(server: NatsServerWithUsers) -> AsyncIterator[NatsClient]:
    """What is to be kept, stored; afterwards it is as it was, and no sink has got anything."""
    leaked: list[str] = []

    async def note(message: Msg) -> None:
        leaked.append(message.subject)

    async with _connected(server, TESTER) as (tester, _), _connected(server, A) as (auth, _):
        js = tester.jetstream()
        await (await js.key_value(USERS_BUCKET)).put("alice", b"hers")
        for sink in ("sink", "_INBOX_provision.>"):
            await tester.subscribe(sink, cb=note)
        for operation in OPERATIONS:
            await auth.subscribe(operation, cb=note)
        for listener in (tester, auth):
            await listener.flush()
        yield tester
        for listener in (tester, auth):
            await listener.flush()
        assert {info.config.name for info in await js.streams_info()} == set(STREAMS)
        assert (await (await js.key_value(USERS_BUCKET)).get("alice")).value == b"hers"
        for stream, forged in (("EVENTS", "events.victim.s.t"), ("JOBS", "jobs.forged")):
            with pytest.raises(NotFoundError):
                await js.get_last_msg(stream, forged)
    assert leaked == []


@pytest.mark.parametrize("user", [G, A, W, I, O])  # provisioning may restore any stream with what it likes
async def test_nobody_has_an_answer_sent_where_it_may_not_publish(server: NatsServerWithUsers, user: str) -> None:
    """An answer is what its asker stored before, as with a direct get, or empty, as such requests must be."""
    ref = TaskRef("internal", "s", "t")
    async with _watched(server) as tester, _connected(server, user) as (client, _):
        await tester.jetstream().publish(ref.events, b"")
        await tester.jetstream().publish("jobs.real", b"{}")
        may_publish = {subject for subject, allowed in PUBLISHING if user in allowed}
        asking = may_publish - set(SINKS) | {f"$JS.API.DIRECT.GET.EVENTS.{ref.events}"}
        own = set(OPERATIONS) if user == A else set()  # it takes these requests itself
        for sink in set(SINKS) - may_publish - own:
            for subject in sorted(asking):
                await client.publish(subject, b"", reply=sink)
        await client.flush()


async def test_what_a_workers_consumers_push_is_stored_nowhere_and_reaches_nobody_outside(
    server: NatsServerWithUsers,
) -> None:
    """Each has a job of its own, which the server pushes if anybody listens, as at the last one does the tester."""
    pushed: set[str] = set()
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    async with _watched(server) as tester, _connected(server, W) as (client, _):
        js = tester.jetstream()
        await tester.subscribe("heard", cb=heard.put)
        # But for those that the tester hears, as nobody would: it is where the streams are.
        for sink in (*(sink for sink in SINKS if sink not in ("sink", "_INBOX_provision.x")), "heard"):
            lane = ModelLane(f"pushed-{len(pushed)}", "rest")
            config = {"durable_name": lane.model_key, "name": lane.model_key, "filter_subject": lane.jobs}
            config |= {"ack_policy": "explicit", "deliver_subject": sink}
            request = json.dumps({"stream_name": "JOBS", "config": config}).encode()
            call = f"$JS.API.CONSUMER.CREATE.JOBS.{lane.model_key}.{lane.jobs}"
            answer = json.loads((await client.request(call, request, timeout=5)).data)
            if sink == "jobs.forged":  # the stream that it comes from
                assert "forms a cycle" in answer["error"]["description"]
                continue
            assert answer["config"]["deliver_subject"] == sink
            await js.publish(lane.jobs, b"")
            pushed.add(lane.model_key)
        async with asyncio.timeout(20):
            await heard.get()
    await _provision(server)
    async with _connected(server, TESTER) as (tester, _):
        assert not pushed & {consumer.name for consumer in await tester.jetstream().consumers_info("JOBS")}


@pytest.mark.parametrize(
    "credentials", [{}, {"user": G, "pass": ""}, {"user": G, "pass": "x"}, {"user": "sys", "pass": "sys"}]
)
async def test_nobody_gets_in_without_the_password_of_a_user(
    server: NatsServerWithUsers, credentials: dict[str, str]
) -> None:
    assert not await is_let_in(server.url, **credentials)


async def _ignore(_: object) -> None:
    pass


@pytest.mark.parametrize("name", ["gateway", "all", "", "a.b", "*", ">", "Upper", "1st", "a-b", "x" * 33, "a b", 'a"'])
def test_a_name_that_would_have_others_rights_is_no_publishers(name: str) -> None:
    with pytest.raises(PublisherNameError, match="cannot be a publisher"):
        publisher(name)
