"""Threads that help the engine's own, which makes its next forward pass meanwhile: safety checks, and PNG files."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sd_worker.engine.cores import compute_on
from sd_worker.engine.failures import failure_of
from sd_worker.engine.pipelines import GeneratedPicture
from sd_worker.engine.png import encode_png
from sd_worker.engine.rendezvous import Returned
from sd_worker.engine.samples import Sample
from sd_worker.engine.sharing import ThreadCall
from sd_worker.engine.tasks import Finished, Outcome

_NUM_THREADS = 2

#: A sample and what became of the call that it waits for; or what became of a task.
Done = tuple[Sample, Returned] | Outcome


class HelperThreads:
    """What they have done is fetched with `done`. `on_done` is called from them, each time."""

    def __init__(self, on_done: Callable[[], None]) -> None:
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "engine-helper", compute_on, (1,))
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._on_done = on_done

    def run(self, sample: Sample, call: ThreadCall) -> None:
        """Make a call for a sample, which waits for it."""
        self._submit(lambda: (sample, _returned(call)))

    def finish(self, sample: Sample, picture: GeneratedPicture) -> None:
        """Make the outcome of a sample whose picture is there."""
        generated_at = time.perf_counter()
        self._submit(lambda: _outcome(sample, picture, generated_at))

    def done(self) -> list[Done]:
        """What has been done since the last time."""
        done = []
        while not self._done.empty():
            done.append(self._done.get())
        return done

    def stop(self) -> None:
        """End when the work that is there is done."""
        self._threads.shutdown(wait=False)

    def _submit(self, work: Callable[[], Done]) -> None:
        def run() -> None:
            self._done.put(work())
            self._on_done()

        self._threads.submit(run)


def _returned(call: ThreadCall) -> Returned:
    try:
        return Returned(call.run())
    except BaseException as error:  # raised in the sample instead
        return Returned(error=error)


def _outcome(sample: Sample, picture: GeneratedPicture, generated_at: float) -> Outcome:
    task_id = sample.task.task_id
    started_at = time.perf_counter()
    try:
        used = sample.parameters_used()
        png = encode_png(picture.image, used)
        timings = sample.timings(generated_at, time.perf_counter() - started_at)
        return Finished(task_id, png, used, picture.nsfw_content_detected, timings)
    except BaseException as error:  # each task has its outcome
        return failure_of(sample.task, error)
