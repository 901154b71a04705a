"""Who may do what on NATS (ADR 25). nats-server's configuration is made of it (`sd_common.nats_conf`).

A user for each service, and one for each publisher: a program of the operator's that queues jobs. Each may use
the subjects below and no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sd_common import auth_messages as auth
from sd_common import subjects
from sd_common.errors import PublisherNameError
from sd_common.streams import (
    EVENTS,
    IDEMPOTENCY_KEYS_BUCKET,
    JOBS,
    REVOKED_TOKENS_BUCKET,
    USERS_BUCKET,
    keys_of_bucket,
    stream_of_bucket,
)

_IDEMPOTENCY_KEYS = stream_of_bucket(IDEMPOTENCY_KEYS_BUCKET)
_REVOKED_TOKENS = stream_of_bucket(REVOKED_TOKENS_BUCKET)
_USERS = stream_of_bucket(USERS_BUCKET)
_STREAMS = (JOBS, EVENTS, _USERS, _IDEMPOTENCY_KEYS, _REVOKED_TOKENS)

#: Where the streams are.
STREAMS_ACCOUNT = "STREAMS"
#: The publisher of the embedded mode, and of the committed configuration.
DEFAULT_PUBLISHER = "internal"
_PUBLISHER_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class NatsUser:
    """What one user of NATS may do, besides reading its inbox."""

    name: str
    #: To the streams, and requests.
    publish: tuple[str, ...]
    #: To other users: what is not stored.
    tell: tuple[str, ...] = ()
    #: From other users, and what the streams republish.
    hear: tuple[str, ...] = ()
    #: Where it takes requests, which it may answer.
    serve: tuple[str, ...] = ()
    #: Where it is not one of its own name.
    shared_account: str | None = None

    @property
    def account(self) -> str:
        """The account that it is in. Provisioning is where the streams are, each other user alone."""
        return self.shared_account or self.name.upper()

    @property
    def password_variable(self) -> str:
        """The environment variable in which nats-server finds its password."""
        return f"NATS_{self.name.upper()}_PASSWORD"


PROVISION = NatsUser(
    "provision",
    shared_account=STREAMS_ACCOUNT,  # what it saves and restores goes by no import
    publish=(
        *(f"$JS.API.STREAM.{verb}.{stream}" for stream in _STREAMS for verb in ("INFO", "CREATE", "UPDATE")),
        # For `sd_common.backup`. It adds little: who may change a stream may have it republished to where it listens.
        *(f"$JS.API.STREAM.{verb}.{stream}" for stream in _STREAMS for verb in ("SNAPSHOT", "RESTORE")),
        *(f"$JS.SNAPSHOT.{verb}.{stream}.>" for stream in _STREAMS for verb in ("ACK", "RESTORE")),
        f"$JS.API.CONSUMER.LIST.{JOBS}",
        f"$JS.API.CONSUMER.DELETE.{JOBS}.*",
    ),
)
GATEWAY = NatsUser(
    "gateway",
    publish=(
        *subjects.JOBS,
        f"$JS.API.STREAM.MSG.DELETE.{JOBS}",
        f"$JS.API.DIRECT.GET.{JOBS}",
        f"$JS.API.CONSUMER.INFO.{JOBS}.*",
        subjects.EVENTS,
        f"$JS.API.STREAM.INFO.{EVENTS}",
        f"$JS.API.STREAM.MSG.GET.{EVENTS}",
        f"$JS.API.DIRECT.GET.{EVENTS}",
        f"$JS.API.DIRECT.GET.{EVENTS}.{subjects.EVENTS}",
        *auth.OPERATIONS,
        keys_of_bucket(IDEMPOTENCY_KEYS_BUCKET),
        f"$JS.API.STREAM.INFO.{_IDEMPOTENCY_KEYS}",
        f"$JS.API.STREAM.MSG.GET.{_IDEMPOTENCY_KEYS}",
        f"$JS.API.DIRECT.GET.{_REVOKED_TOKENS}",
    ),
    tell=(subjects.CANCELS, subjects.ROLL_CALL),
    hear=(subjects.FEED, subjects.PROGRESS, subjects.WORKERS, subjects.BACKLOG, subjects.REVOKED_TOKENS),
)
AUTH = NatsUser(
    "auth",
    publish=(
        keys_of_bucket(USERS_BUCKET),
        f"$JS.API.STREAM.INFO.{_USERS}",
        f"$JS.API.STREAM.MSG.GET.{_USERS}",
        keys_of_bucket(REVOKED_TOKENS_BUCKET),
        f"$JS.API.STREAM.INFO.{_REVOKED_TOKENS}",
        f"$JS.API.DIRECT.GET.{_REVOKED_TOKENS}.{keys_of_bucket(REVOKED_TOKENS_BUCKET)}",
    ),
    serve=(*auth.OPERATIONS, "$SRV.>"),  # the last is where NATS' micro services tell what they are
)
WORKER = NatsUser(
    "worker",
    publish=(
        f"$JS.API.STREAM.INFO.{JOBS}",
        f"$JS.API.DIRECT.GET.{JOBS}",
        *(f"$JS.API.CONSUMER.CREATE.{JOBS}.*.{lane}" for lane in subjects.JOBS),
        f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.*",
        f"$JS.ACK.{JOBS}.>",
        subjects.EVENTS,
        f"$JS.API.STREAM.MSG.GET.{EVENTS}",
        f"$JS.API.DIRECT.GET.{EVENTS}.{subjects.EVENTS}",
    ),
    tell=(subjects.PROGRESS, subjects.WORKERS, subjects.BACKLOG, subjects.HELD_MODELS),
    hear=(subjects.CANCELS, subjects.ROLL_CALL, subjects.BACKLOG, subjects.HELD_MODELS),
)
SERVICES = (PROVISION, GATEWAY, AUTH, WORKER)


def publisher(name: str) -> NatsUser:
    """A publisher: it queues jobs in lane `rest`, follows the tasks of the user of its name, and ends them.

    Raises `PublisherNameError`.
    """
    taken = {auth.PUBLIC_USER, STREAMS_ACCOUNT.lower(), *(service.name for service in SERVICES)}
    if not _PUBLISHER_NAME.fullmatch(name) or name in taken:
        raise PublisherNameError(name, taken)
    return NatsUser(
        name,
        publish=(
            subjects.JOBS_OF_REST,
            subjects.events_of_user(name),
            f"$JS.API.DIRECT.GET.{EVENTS}.events.{name}.>",
        ),
        tell=(subjects.CANCELS,),
        hear=(subjects.feed_of_user(name), subjects.progress_of_user(name)),
    )


def users(publishers: Sequence[str] = (DEFAULT_PUBLISHER,)) -> tuple[NatsUser, ...]:
    """Those of the services, then those of the publishers. Raises `PublisherNameError`."""
    return (*SERVICES, *(publisher(name) for name in dict.fromkeys(publishers)))
