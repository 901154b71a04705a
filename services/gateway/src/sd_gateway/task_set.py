"""Tasks, counted by whom they count for, and found by what their users know of them."""

from __future__ import annotations

from collections import defaultdict

from sd_common.subjects import TaskRef
from sd_gateway.authn import Identity


class TaskSet:
    """A set of tasks."""

    def __init__(self) -> None:
        self._of_holder: defaultdict[str, set[TaskRef]] = defaultdict(set)
        #: By user and task id, in the order in which they came: tasks of several sessions may have the same id.
        self._by_id: defaultdict[tuple[str, str], dict[TaskRef, None]] = defaultdict(dict)

    def __len__(self) -> int:
        """Any thread may ask."""
        return sum(map(len, list(self._of_holder.values())))

    def __contains__(self, ref: TaskRef) -> bool:
        return ref in self.of(holder_of(ref))

    def of(self, holder: str) -> set[TaskRef] | frozenset[TaskRef]:
        """Those that count for `holder`."""
        return self._of_holder.get(holder, frozenset())

    def find(self, user: str, task_id: str) -> TaskRef | None:
        """The user's task of this id, whichever session it belongs to: of several, the one that came last."""
        return next(reversed(self._by_id.get((user, task_id), {})), None)

    def add(self, ref: TaskRef) -> None:
        self._of_holder[holder_of(ref)].add(ref)
        self._by_id[ref.user, ref.task_id][ref] = None

    def discard(self, ref: TaskRef) -> None:
        """Take out a task, if it is there."""
        holder = holder_of(ref)
        if holder in self._of_holder:
            self._of_holder[holder].discard(ref)
            if not self._of_holder[holder]:
                del self._of_holder[holder]
        key = ref.user, ref.task_id
        if key in self._by_id:
            self._by_id[key].pop(ref, None)
            if not self._by_id[key]:
                del self._by_id[key]


def holder_of(ref: TaskRef) -> str:
    """Whom a task counts for."""
    return Identity(ref.user, ref.session).holder
