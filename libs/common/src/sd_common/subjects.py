"""Every NATS subject of the service, built and parsed in one place.

    jobs.<model_key>                          stream JOBS, lane `rest`
    jobs.<model_key>.<lane>                   stream JOBS, lanes `first` and `next`
    events.<user>.<session>.<task_id>         stream EVENTS
    feed.<user>.<session>.<task_id>           EVENTS republished once stored, with the header `Nats-Sequence`
    progress.<user>.<session>.<task_id>       core, not stored
    cancels.<task_id>                         core, not stored
    workers.<worker_key>                      core, not stored
    roll_call                                 core, not stored: asks all workers to announce themselves
    backlog                                   core, not stored: what waits, told by the worker that asked the server
    held_models                               core, not stored: the models that a worker holds, told to the others
    revoked_tokens.<token_id>                 KV `revoked_tokens` republished once stored
    auth.<operation>                          request-reply

The user comes first because NATS filters a leading wildcard by a full scan (34 ms at 100,000 tasks against 0.3 ms).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sd_common.errors import SubjectError
from sd_common.keys import key_of_name
from sd_common.lanes import Lane
from sd_common.model_names import model_key

JOBS_OF_REST = "jobs.*"
JOBS = (JOBS_OF_REST, "jobs.*.first", "jobs.*.next")
JOBS_OF_ALL_LANES = "jobs.>"
EVENTS = "events.*.*.*"
FEED = "feed.>"
PROGRESS = "progress.>"
CANCELS = "cancels.*"
WORKERS = "workers.*"
ROLL_CALL = "roll_call"
BACKLOG = "backlog"
HELD_MODELS = "held_models"
REVOKED_TOKENS = "revoked_tokens.*"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: What users, sessions and tasks may be called: one subject token each. For pydantic's `pattern`.
TOKEN_PATTERN = rf"^{_TOKEN.pattern}$"

TaskSubjectPrefix = Literal["events", "feed", "progress"]


@dataclass(frozen=True)
class TaskRef:
    """Where a task's events are found."""

    user: str
    session: str
    task_id: str

    def __post_init__(self) -> None:
        for name in (self.user, self.session, self.task_id):
            check_token(name)

    @property
    def events(self) -> str:
        return f"events.{self.user}.{self.session}.{self.task_id}"

    @property
    def progress(self) -> str:
        return f"progress.{self.user}.{self.session}.{self.task_id}"

    @property
    def cancels(self) -> str:
        return f"cancels.{self.task_id}"

    @property
    def message_id(self) -> str:
        """Its id among all tasks, as the `Nats-Msg-Id` of its job. All three names: publishers choose task ids, and two
        may choose the same."""
        return f"{self.user}.{self.session}.{self.task_id}"


@dataclass(frozen=True)
class ModelLane:
    """One lane of a model's queue."""

    model_key: str
    lane: Lane

    def __post_init__(self) -> None:
        check_token(self.model_key)

    @property
    def jobs(self) -> str:
        """The subject of its jobs. That of `rest` is the model's own, which is for whoever knows of no lanes."""
        return f"jobs.{self.model_key}" if self.lane == "rest" else f"jobs.{self.model_key}.{self.lane}"


def check_token(name: str) -> str:
    """Return `name`, or raise `SubjectError` where it is not one subject token."""
    if not _TOKEN.fullmatch(name):
        raise SubjectError(f"'{name}' is not 1 to 64 letters, digits, '_' or '-'")
    return name


def jobs_of(model: str, lane: Lane = "rest") -> str:
    """The subject of a model's jobs in a lane."""
    return ModelLane(model_key(model), lane).jobs


def parse_jobs_subject(subject: str) -> ModelLane:
    """The lane that a job's subject names. Raises `SubjectError`."""
    match subject.split("."):
        case ["jobs", key]:
            return ModelLane(key, "rest")
        case ["jobs", key, "first" | "next" as lane]:
            return ModelLane(key, lane)
    raise SubjectError(f"'{subject}' is not a subject of jobs")


def events_of_task(user: str, task_id: str) -> str:
    """Filter for the events of one task of a user, whatever its session."""
    return f"events.{check_token(user)}.*.{check_token(task_id)}"


def events_of_session(user: str, session: str) -> str:
    """Filter for the events of all tasks of one session."""
    return f"events.{check_token(user)}.{check_token(session)}.*"


def events_of_user(user: str) -> str:
    """Filter for the events of all tasks of one user."""
    return f"events.{check_token(user)}.*.*"


def progress_of_session(user: str, session: str) -> str:
    """Filter for the progress of all tasks of one session."""
    return f"progress.{check_token(user)}.{check_token(session)}.*"


def feed_of_user(user: str) -> str:
    """Filter for the feed of all tasks of one user."""
    return f"feed.{check_token(user)}.>"


def progress_of_user(user: str) -> str:
    """Filter for the progress of all tasks of one user."""
    return f"progress.{check_token(user)}.>"


def parse_task_subject(subject: str) -> tuple[TaskSubjectPrefix, TaskRef]:
    """Take apart the subject of an event, a feed message or a progress message. Raises `SubjectError`."""
    parts = subject.split(".")
    if len(parts) == 4:
        ref = TaskRef(*parts[1:])
        match parts[0]:
            case "events" | "feed" | "progress" as prefix:
                return prefix, ref
    raise SubjectError(f"'{subject}' is not the subject of a task")


def task_id_of_cancel(subject: str) -> str:
    """The task that a cancel message is about. Raises `SubjectError`."""
    prefix, _, task_id = subject.partition(".")
    if prefix != "cancels":
        raise SubjectError(f"'{subject}' is not a subject of cancels")
    return check_token(task_id)


def announcements_of(worker: str) -> str:
    """The subject of a worker's announcements."""
    return f"workers.{key_of_name(worker)}"


def inbox_prefix_of(user: str) -> str:
    """What the answers to a user of NATS are sent to, before a dot and more."""
    return f"_INBOX_{user}"
