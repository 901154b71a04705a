"""Which calls of a network fit into one pass."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest
import torch
from unit.engine.recorder import EngineUnderTest, picture, txt2img

from sd_worker.engine import shapes
from sd_worker.engine.batches import NetworkCall, run_together


class Doubles(torch.nn.Module):
    def forward(self, rows: torch.Tensor, img_ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (2 * rows + img_ids.sum(),)


def call(height: int, width: int) -> NetworkCall:
    """As Flux's transformer is called: the latents in a row, and where in the picture each of them lies."""
    ids = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    return NetworkCall("denoise", NETWORK, (), {"rows": torch.ones(1, height * width), "img_ids": ids})


NETWORK = Doubles()


def test_a_wide_and_a_high_picture_share_no_pass_of_a_transformer_that_is_told_positions() -> None:
    assert call(2, 4).group == call(2, 4).group
    assert call(2, 4).group != call(4, 2).group


def test_positions_are_for_all_rows() -> None:
    alone = call(2, 4).run()
    together = run_together([call(2, 4), call(2, 4)])

    assert isinstance(alone, tuple)
    assert all(isinstance(result, tuple) and torch.equal(result[0], alone[0]) for result in together)


def test_tensors_without_rows_are_told_from_those_with_rows() -> None:
    timesteps = torch.zeros(2)
    with_rows = NetworkCall("denoise", NETWORK, (torch.zeros(2, 3), timesteps), {"controls": [torch.zeros(2, 5)]})
    one_for_all = NetworkCall("denoise", NETWORK, (torch.zeros(2, 3), torch.zeros(())), {"a": {"b": torch.zeros(1)}})
    list_of_pictures = NetworkCall("denoise", NETWORK, ([torch.zeros(16, 8, 8)] * 2, timesteps), {})

    assert with_rows.has_rows
    assert one_for_all.has_rows
    assert not list_of_pictures.has_rows


def test_a_wide_and_a_high_picture_of_flux_in_flight_together_are_as_alone(engine: EngineUnderTest) -> None:
    own: dict[str, Any] = {"model": "flux", "scheduler": "euler"}
    wide, high = txt2img("wide", **own, width=128, height=64), txt2img("high", **own, width=64, height=128)
    alone = {task.task_id: picture(engine.finish(task)).tobytes() for task in (wide, high)}

    engine.engine.submit(wide)
    engine.engine.submit(high)
    for _ in alone:
        outcome = engine.recorder.next_outcome()
        assert picture(outcome).tobytes() == alone[outcome.task_id]  # type: ignore[arg-type]


def test_positions_that_stay_the_same_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them waits for a GPU."""
    read: list[object] = []
    content_of = shapes._content_of

    def look(value: torch.Tensor) -> Hashable:
        read.append(value)
        return content_of(value)

    monkeypatch.setattr(shapes, "_content_of", look)
    first = call(2, 4)

    groups = {replace(first, arguments=()).group for _ in range(3)}

    assert len(groups) == 1
    assert len(read) == 1
    assert call(2, 4).group in groups
    assert len(read) == 2


def test_positions_are_not_kept_in_memory() -> None:
    gone = call(2, 4)
    positions = weakref.ref(gone.keywords["img_ids"])
    assert gone.group is not None

    del gone

    assert positions() is None


class TellsItsTimesteps(torch.nn.Module):
    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor]:
        return (timesteps,)


def test_timesteps_of_the_cpu_go_where_the_latents_are() -> None:
    """Some schedulers keep theirs on the CPU, others have them on the device."""
    network, latents = TellsItsTimesteps(), torch.zeros(1, 4, 8, 8, device="meta")
    timesteps = [torch.tensor(1), torch.tensor(2.5, device="meta")]

    results = run_together([NetworkCall("denoise", network, (latents, timestep), {}) for timestep in timesteps])

    assert all(isinstance(result, tuple) and result[0].device.type == "meta" for result in results)
