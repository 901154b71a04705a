"""nats-server's configuration: `python -m sd_common.nats_conf [PUBLISHER ...] > k8s/base/nats.conf`.

Each user of `sd_common.nats_users` has an account of its own, from which only its subjects lead to the others. Rights
alone would not do: whoever asks names the subject of the answer, and the server sends it there whether the asker may or
not. Where all are in one account, a publisher can have an answer sent to `$JS.API.STREAM.DELETE.KV_users`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from sd_common import subjects
from sd_common.errors import PublisherNameError
from sd_common.nats_users import DEFAULT_PUBLISHER, STREAMS_ACCOUNT, NatsUser, users

#: Without this import an account also answers all of `$JS.API.>` itself: that it has no streams.
_INFO = "$JS.API.INFO"
#: What is answered with more than one message.
_MANY_ANSWERS = ("$JS.API.DIRECT.GET.", "$JS.API.CONSUMER.MSG.NEXT.")
_HEADER = """\
# Users of nats-server, each in an account of its own, with what it may publish and listen to. Made by `make nats-conf`:
# do not edit it. Passwords come from the environment of nats-server: put each in double quotes there, or one of digits
# would be read as a number. Anything else goes into options, or into a file that includes this one.
"""


def configuration(listed: Sequence[NatsUser]) -> str:
    """nats-server's configuration with exactly these users; provisioning must be one. The system account gets none."""
    return "\n".join([_HEADER.rstrip(), "accounts {", *_accounts(listed), "}", ""])


def _accounts(listed: Sequence[NatsUser]) -> Iterator[str]:
    for account in dict.fromkeys((STREAMS_ACCOUNT, *(user.account for user in listed))):
        own = [user for user in listed if user.account == account]
        others = [user for user in listed if user.account != account]
        exports, imports = _exports(own, others), _imports(account, own, others)
        if account == STREAMS_ACCOUNT:
            exports = [f"service: {_quoted(_INFO)}", *_exports_of_streams(others, listed), *exports]
        else:
            imports = [_from(STREAMS_ACCOUNT, "service", _INFO), *imports]
        yield f"  {account} {{"
        if account == STREAMS_ACCOUNT:
            yield "    jetstream: enabled"
        yield "    users: ["
        for user in own:
            yield from _user(user)
        yield "    ]"
        yield from _list("exports", exports)
        yield from _list("imports", imports)
        yield "  }"


def _exports_of_streams(others: Sequence[NatsUser], listed: Sequence[NatsUser]) -> Iterator[str]:
    """Requests and what is stored come in, what is republished goes out."""
    for subject in _each_once(user.publish for user in others):
        if _servers(subject, listed):
            continue
        answers = ", response_type: Stream" if subject.startswith(_MANY_ANSWERS) else ""
        yield f"service: {_quoted(subject)}{answers}, {_for(user for user in others if subject in user.publish)}"
    for subject in _each_once(user.hear for user in others):
        if not _tellers(subject, listed):
            yield f"stream: {_quoted(subject)}, {_for(user for user in others if subject in user.hear)}"


def _exports(own: Sequence[NatsUser], others: Sequence[NatsUser]) -> list[str]:
    """What these users tell others, and the requests that they take."""
    served = [
        f"service: {_quoted(subject)}, {_for(askers)}"
        for subject in _each_once(user.serve for user in own)
        if (askers := [user for user in others if subject in user.publish])
    ]
    heard = [subject for subject in _each_once(user.hear for user in others) if _tellers(subject, own)]
    told = [f"stream: {_quoted(subject)}, {_for(user for user in others if subject in user.hear)}" for subject in heard]
    return served + told


def _imports(account: str, own: Sequence[NatsUser], others: Sequence[NatsUser]) -> list[str]:
    imports = []
    for subject in _each_once(user.publish for user in own):
        # Straight from who takes it: what a consumer pushes stays among the streams.
        imports += [_from(source, "service", subject) for source in _sources(_servers(subject, others), account)]
    for subject in _each_once(user.hear for user in own):
        tellers = _tellers(subject, others)
        if tellers or not _tellers(subject, own):
            imports += [_from(source, "stream", subject) for source in _sources(tellers, account)]
    return imports


def _sources(found: Sequence[NatsUser], account: str) -> list[str]:
    """The accounts of whom a subject comes from: the streams where that is no user."""
    return list(dict.fromkeys(user.account for user in found)) or [STREAMS_ACCOUNT] * (account != STREAMS_ACCOUNT)


def _servers(subject: str, listed: Sequence[NatsUser]) -> list[NatsUser]:
    """Who takes the requests to a subject."""
    return [user for user in listed if subject in user.serve]


def _tellers(subject: str, listed: Sequence[NatsUser]) -> list[NatsUser]:
    """Who tells what a filter lets through."""
    return [user for user in listed if any(_covers(told, subject) for told in user.tell)]


def _covers(told: str, subject: str) -> bool:
    return told == subject or (told.endswith(">") and subject.startswith(told[:-1]))


def _each_once(subjects_of_users: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(subjects_of_users)))


def _for(allowed: Iterable[NatsUser]) -> str:
    return f"accounts: [{', '.join(dict.fromkeys(user.account for user in allowed))}]"


def _from(account: str, kind: str, subject: str) -> str:
    return f"{kind}: {{ account: {account}, subject: {_quoted(subject)} }}"


def _quoted(subject: str) -> str:
    return json.dumps(subject)


def _list(name: str, items: Iterable[str]) -> Iterator[str]:
    yield f"    {name}: ["
    yield from (f"      {{ {item} }}" for item in items)
    yield "    ]"


def _user(user: NatsUser) -> Iterator[str]:
    yield "      {"
    yield f"        user: {user.name}, password: ${user.password_variable}"
    yield "        permissions: {"
    yield from _allowed("publish", (*user.publish, *user.tell))
    yield from _allowed("subscribe", (f"{subjects.inbox_prefix_of(user.name)}.>", *user.hear, *user.serve))
    if user.serve:
        yield "          allow_responses: true"
    yield "        }"
    yield "      }"


def _allowed(verb: str, allowed: Sequence[str]) -> Iterator[str]:
    yield f"          {verb}: {{ allow: ["
    yield from (f"            {_quoted(subject)}" for subject in allowed)
    yield "          ] }"


def main() -> None:
    try:
        sys.stdout.write(configuration(users(sys.argv[1:] or (DEFAULT_PUBLISHER,))))
    except PublisherNameError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
