"""Samples that wait for a network, grouped by what fits into one forward pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from sd_worker.engine.batches import NetworkCall
from sd_worker.engine.samples import Sample


class Groups:
    """The group that was served longest ago comes first, so that large pictures starve nobody and are not starved."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, dict[Sample, NetworkCall]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, sample: Sample, call: NetworkCall) -> None:
        """`sample` waits for `call`, behind the others of its group."""
        self._groups.setdefault(call.group, {})[sample] = call

    def discard(self, sample: Sample) -> None:
        """`sample` waits no more."""
        for group, waiting in self._groups.items():
            if waiting.pop(sample, None) is not None:
                if not waiting:
                    del self._groups[group]
                return

    def first(self) -> tuple[Sample, NetworkCall]:
        """The one that has waited longest in the group whose turn it is."""
        return next(iter(next(iter(self._groups.values())).items()))

    def take(self, num_rows: int) -> list[tuple[Sample, NetworkCall]]:
        """Take out those of the group whose turn it is that have waited longest: up to `num_rows`, but at least one.

        The group goes behind the others.
        """
        group, waiting = self._groups.popitem(last=False)
        taken: list[tuple[Sample, NetworkCall]] = []
        num_taken_rows = 0
        for sample, call in waiting.items():
            if taken and num_taken_rows + call.num_rows > num_rows:
                break
            taken.append((sample, call))
            num_taken_rows += call.num_rows
        for sample, _ in taken:
            del waiting[sample]
        if waiting:
            self._groups[group] = waiting
        return taken
