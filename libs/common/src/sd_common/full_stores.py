"""How JetStream says that a store is full."""

from __future__ import annotations

import json

#: Of the account, of the server, and of either while a stream is made.
_LIMIT_REACHED = (10002, 10023, 10047)
#: That a stream could not store a message: it is at a limit of its own (`JSStreamStoreFailedF`).
STORE_FAILED = 10077
#: The end of the reason of that, where only one subject is full.
_ONE_SUBJECT = "per subject exceeded"


def is_store_full(err_code: int | None, description: str | None) -> bool:
    """Whether an error of JetStream's API tells of a limit in bytes that is reached."""
    if err_code == STORE_FAILED:
        return not (description or "").endswith(_ONE_SUBJECT)
    return err_code in _LIMIT_REACHED


def refused_as_full(answer: bytes) -> bool:
    """Whether an answer to something that was published says so."""
    if not answer.startswith(b'{"error":'):
        return False
    error = json.loads(answer)["error"]
    return is_store_full(error.get("err_code"), error.get("description"))
